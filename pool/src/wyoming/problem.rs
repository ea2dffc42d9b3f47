//! What a client is told when something is not done.

use super::event::Event;
use super::link::Fault;
use crate::inference::Refusal;

/// Why a client is told `error`; the conversation goes on.
#[derive(Debug)]
pub struct Problem {
    code: &'static str,
    pub text: String,
}

impl Problem {
    pub fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// Of a worker.
    pub fn of(worker: &str, refusal: &Refusal) -> Self {
        let code = match refusal {
            Refusal::NotFound(_) => "not-found",
            Refusal::Invalid(_) => "invalid",
            Refusal::TooLarge(_) => "too-large",
            Refusal::Full { .. } => "overloaded",
            Refusal::Unavailable(_) => "unavailable",
            Refusal::Expired(_) => "late",
            Refusal::Cancelled => "cancelled",
            Refusal::Failed(_) => "failed",
        };
        Self::new(code, format!("{worker}: {refusal}"))
    }

    pub fn event(&self) -> Event {
        Event::new("error").with("text", self.text.as_str()).with("code", self.code)
    }
}

/// Either ends the answer to an event: this one alone, or all of them.
pub enum Stop {
    Problem(Problem),
    Fault(Fault),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}
