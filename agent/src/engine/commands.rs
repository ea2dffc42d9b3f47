//! What clients ask of the engine, and reloads.

use std::path::{Path, PathBuf};

use downbeat_api::{Mode, Request, Response, Severity};
use downbeat_policy::PolicySet;

use super::notices::notice;
use super::{Engine, Policy};
use crate::observe::kernel::{KernelProbes, Limit};
use crate::observe::policy_files::read_folders;
use crate::serve::socket::Command;

impl Engine {
    pub(super) fn on_command(&mut self, command: Command) {
        let response = match command.request {
            Request::Pause => self.pause(),
            Request::Resume => self.resume(),
            Request::Explain { pid } => self.explain(pid),
            Request::Misses => self.all_misses(),
            Request::Follow { pid, seconds } => self.follow_on_request(pid, seconds),
            // The socket answers these itself.
            Request::Snapshot | Request::Watch | Request::Host => {
                Response::Error { message: "not a question for the engine".into() }
            }
        };
        // A client that left needs no answer.
        let _ = command.answer.send(response);
    }

    fn pause(&mut self) -> Response {
        match self.mode {
            Mode::ObserveOnly => observe_only(),
            Mode::Paused => Response::Done { message: "paused already".into() },
            Mode::Engaged => {
                let restored = self.disengage();
                self.publish();
                Response::Done { message: format!("paused: {} put back", values(restored)) }
            }
        }
    }

    fn resume(&mut self) -> Response {
        match self.mode {
            Mode::ObserveOnly => observe_only(),
            Mode::Engaged => Response::Done { message: "engaged already".into() },
            Mode::Paused => {
                self.mode = Mode::Engaged;
                let applied = self.consider_all();
                self.publish();
                Response::Done { message: format!("engaged: {} set", values(applied)) }
            }
        }
    }

    /// Reads the policy anew. A bad set never replaces the one in force.
    pub(super) fn reload(&mut self) {
        let folders: Vec<&Path> = self.policy_dirs.iter().map(AsRef::as_ref).collect();
        match load(&folders) {
            Ok(set) => {
                self.policy = Policy::new(set, &self.host, &mut self.slots);
                self.forget_old_classes();
                self.notices.set("reload", Vec::new());
                self.note_policy();
                self.consider_all();
                tracing::info!("policy read anew: {} rules", self.policy.set.rules.len());
            }
            Err(problems) => {
                tracing::error!("the policy on disk is refused; the one in force stays");
                let say = |problem: &String| {
                    tracing::error!("{problem}");
                    let remedy = "mend the file and send SIGHUP; the policy in force stays";
                    notice(Severity::Error, problem, Some(remedy))
                };
                self.notices.set("reload", problems.iter().map(say).collect());
            }
        }
        if let Some(pool) = &self.pool {
            pool.reload();
        }
        self.publish();
    }

    /// What the kernel programs cannot do here although they run.
    pub(super) fn note_limits(&mut self) {
        let limits = self.probes.iter().flat_map(KernelProbes::limits);
        let say = |limit: &Limit| {
            let text = format!("{}: {}", limit.feature, limit.reason);
            notice(Severity::Warning, text, None)
        };
        self.notices.set("limits", limits.map(say).collect());
    }

    /// What the policy in force leaves to be said.
    pub(super) fn note_policy(&mut self) {
        let mut said = Vec::new();
        if self.policy.set.rules.is_empty() {
            let name = |folder: &PathBuf| {
                let missing = if folder.exists() { "" } else { " (which does not exist)" };
                format!("{}{missing}", folder.display())
            };
            let folders: Vec<String> = self.policy_dirs.iter().map(name).collect();
            said.push(notice(
                Severity::Warning,
                format!("no rules in {}: nothing is managed", folders.join(" or ")),
                Some("copy a policy there (policies/ in the sources), and send SIGHUP"),
            ));
        }
        said.extend(self.policy.fallbacks().map(|text| notice(Severity::Warning, text, None)));
        said.extend(self.policy.unmeasured().map(|class| {
            let text = format!("class {class} is one too many: its waits are not measured");
            notice(Severity::Warning, text, Some("use fewer classes, and restart downbeatd"))
        }));
        self.notices.set("policy", said);
    }
}

/// Reads and parses a policy; every problem is a line that names its file.
///
/// # Errors
/// Every problem found.
pub fn load(folders: &[&Path]) -> Result<PolicySet, Vec<String>> {
    let sources = read_folders(folders)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    PolicySet::parse(&sources.sources)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn values(count: u64) -> String {
    if count == 1 { "1 value".to_owned() } else { format!("{count} values") }
}

fn observe_only() -> Response {
    let message = "this agent runs with --observe-only and never changes anything".into();
    Response::Error { message }
}
