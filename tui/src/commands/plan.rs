//! `downbeat plan`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use downbeat_agent::act::Kernel;
use downbeat_agent::observe::host;
use downbeat_agent::plan::other::wishes_of;
use downbeat_agent::plan::whole;
use downbeat_agent::roots::Roots;
use downbeat_api::{ClientError, HostFacts, Known, Plan, Request, Response};

use super::{Failure, Found, Printer, ask, check, survey, unexpected};
use crate::{report, sanitise};

pub(super) fn run(
    socket: &Path,
    files: &[PathBuf],
    json: bool,
    printer: &mut Printer<'_>,
) -> Result<Found, Failure> {
    let of_agent = match ask(socket, &Request::Plan) {
        Ok(Response::Plan(plan)) => Some(*plan),
        Ok(other) => return Err(unexpected(socket, &other)),
        Err(Failure::Agent(ClientError::NoAgent { .. })) => None,
        Err(failure) => return Err(failure),
    };
    let planned = match of_agent {
        Some(plan) if files.is_empty() => Some(plan),
        Some(now) => {
            let host = match ask(socket, &Request::Host)? {
                Response::Host(host) => *host,
                other => return Err(unexpected(socket, &other)),
            };
            with_policy(files, &host, &now.known, printer)?
        }
        None => with_policy(files, &host::probe(&Roots::default()), &Known::default(), printer)?,
    };
    let Some(mut plan) = planned else { return Ok(Found::Problems) };
    // For plans of other policies alone, and long.
    plan.known = Known::default();
    if json {
        printer.json(&plan, true)?;
    } else {
        sanitise::plan(&mut plan);
        printer.lines(&report::plan::lines(&plan, printer.paper))?;
    }
    Ok(Found::Nothing)
}

/// What the policy in `files`, or in the agent's folders where none is named, would change on this
/// host; nothing where it is refused, which is told then. `known` is what a running agent knows.
fn with_policy(
    files: &[PathBuf],
    host: &HostFacts,
    known: &Known,
    printer: &mut Printer<'_>,
) -> Result<Option<Plan>, Failure> {
    let (policy, _) = match check::policy(files, &mut io::stdin().lock()) {
        Ok(policy) => policy,
        Err(refusal) => {
            refusal.tell(printer)?;
            return Ok(None);
        }
    };
    let roots = Roots::default();
    let survey::Survey { processes, gaps } = survey::survey(&policy, known);
    let mut wishes = wishes_of(&policy, host, &processes, known);
    wishes.fallbacks.extend(gaps);
    let kernel = Kernel::new(&roots);
    // The agent knows where its groups lie; without one this is where they would.
    let groups = match (&known.groups, &known.no_groups) {
        (Some(path), _) => Ok(Arc::from(path.as_str())),
        (None, Some(reason)) => Err(reason.clone()),
        (None, None) => kernel.where_groups_would_lie(),
    };
    Ok(Some(whole(&wishes, host, &roots, &kernel, groups)))
}
