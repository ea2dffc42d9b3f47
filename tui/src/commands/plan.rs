//! `downbeat plan`.

use std::io;
use std::path::{Path, PathBuf};

use downbeat_agent::act::Kernel;
use downbeat_agent::cli::POLICY_DIRS;
use downbeat_agent::observe::host;
use downbeat_agent::observe::process::ProcessReader;
use downbeat_agent::plan::{whole, wishes_of};
use downbeat_agent::roots::Roots;
use downbeat_api::{ClientError, HeldValue, HostFacts, Plan, Request, Response};

use super::{Failure, Found, Printer, ask, check, unexpected};
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
    let mut plan = match of_agent {
        Some(plan) if files.is_empty() => plan,
        // What the agent holds now goes back where the other policy does not ask for it.
        Some(now) => {
            let host = match ask(socket, &Request::Host)? {
                Response::Host(host) => *host,
                other => return Err(unexpected(socket, &other)),
            };
            match with_policy(files, &host, &now.held, printer)? {
                Some(plan) => plan,
                None => return Ok(Found::Problems),
            }
        }
        None => {
            let default = POLICY_DIRS.map(PathBuf::from);
            let files = if files.is_empty() { &default[..] } else { files };
            match with_policy(files, &host::probe(&Roots::default()), &[], printer)? {
                Some(plan) => plan,
                None => return Ok(Found::Problems),
            }
        }
    };
    // For plans of other policies alone, and long.
    plan.held = Vec::new();
    if json {
        printer.json(&plan, true)?;
    } else {
        sanitise::plan(&mut plan);
        printer.lines(&report::plan::lines(&plan, printer.paper))?;
    }
    Ok(Found::Nothing)
}

/// What the policy in `files` would change on this host; nothing where it is refused, which is told
/// then.
fn with_policy(
    files: &[PathBuf],
    host: &HostFacts,
    held: &[HeldValue],
    printer: &mut Printer<'_>,
) -> Result<Option<Plan>, Failure> {
    let (policy, _) = match check::policy(files, &mut io::stdin().lock()) {
        Ok(policy) => policy,
        Err(problems) => {
            check::tell(&problems, printer)?;
            return Ok(None);
        }
    };
    let roots = Roots::default();
    let processes = ProcessReader::new(&roots).scan();
    let wishes = wishes_of(&policy, host, &processes, held);
    Ok(Some(whole(&wishes, host, &roots, &Kernel::new(&roots))))
}
