//! What clients ask of the engine.

use downbeat_api::{Mode, Request, Response, Severity};

use super::Engine;
use super::notices::notice;
use crate::observe::kernel::{KernelProbes, Limit};
use crate::serve::socket::{Answer, Command};

impl Engine {
    pub(super) fn on_command(&mut self, command: Command) {
        let Command { request, by_uid, answer } = command;
        // What is told should be of now.
        self.look_again();
        let response = match request {
            Request::Pause => self.pause(),
            Request::Resume => self.resume(),
            Request::Explain { pid } => self.explain(pid),
            Request::Misses => self.all_misses(),
            Request::Follow { pid, seconds } => self.follow_on_request(pid, seconds),
            Request::Reload => self.reload(),
            Request::Set { pid, class, seconds } => self.set_by_hand(pid, &class, seconds, by_uid),
            Request::Release { pid } => self.release(pid),
            Request::Discover => self.discovered_so_far(),
            Request::Plan => {
                // A client that left needs no answer.
                let _ = answer.send(Answer::Plan(Box::new(self.wishes())));
                return;
            }
            // The socket answers these itself.
            Request::Snapshot | Request::Watch | Request::Host => {
                Response::Error { message: "not a question for the engine".into() }
            }
        };
        let _ = answer.send(Answer::Response(response));
    }

    fn pause(&mut self) -> Response {
        match self.mode {
            Mode::ObserveOnly => observe_only(),
            Mode::Paused => Response::Done { message: "paused already".into() },
            Mode::Engaged => {
                let restored = self.disengage();
                self.publish();
                Response::Done {
                    message: format!("paused: {} put back", counted(restored, "value")),
                }
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
                Response::Done { message: format!("engaged: {} set", counted(applied, "value")) }
            }
        }
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
}

/// `1 value` or `3 values`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

pub(super) fn observe_only() -> Response {
    let message = "this agent runs with --observe-only and never changes anything".into();
    Response::Error { message }
}
