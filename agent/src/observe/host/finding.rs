//! Short ways to say what was found.

use downbeat_api::{Finding, State};

/// There, and used.
pub(super) fn present(id: &str, text: impl Into<String>) -> Finding {
    finding(id, State::Present, text.into(), None)
}

/// There, with a limit, and what lifts it.
pub(super) fn limited(id: &str, text: impl Into<String>, remedy: Option<&str>) -> Finding {
    finding(id, State::Limited, text.into(), remedy)
}

/// Not there: what is lost, and what brings it where something does.
pub(super) fn absent(id: &str, text: impl Into<String>, remedy: Option<&str>) -> Finding {
    finding(id, State::Absent, text.into(), remedy)
}

fn finding(id: &str, state: State, text: String, remedy: Option<&str>) -> Finding {
    Finding { id: id.into(), state, text, remedy: remedy.map(Into::into) }
}
