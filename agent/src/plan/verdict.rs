//! What would become of one lever.

use downbeat_api::{Held, HeldState};

use crate::act::{Lever, LeverEntry, Standing, Value};

/// What would become of a lever that a class asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is as it should be.
    Settled,
    /// It would be set.
    Set,
    /// It would stay as it is, for this reason.
    Leave(String),
}

/// What an actuator knows of a lever. That a thread is real-time by its own wish is no such thing:
/// what it has now says that.
#[must_use]
pub fn held(lever: Lever, entry: &LeverEntry) -> Option<Held> {
    let state = match &entry.standing {
        Standing::Ours(change) => {
            HeldState::Ours { old: change.old.to_string(), ours: change.ours.to_string() }
        }
        Standing::HandedOff(theirs) => HeldState::HandedOff { theirs: theirs.to_string() },
        Standing::Refused(reason) => HeldState::Refused { reason: reason.clone() },
        Standing::AlreadySo => HeldState::AlreadySo,
        Standing::RealtimeByOwnWish(_) => return None,
    };
    let wanted = entry.wanted.as_ref().map(ToString::to_string);
    Some(Held { lever: lever.name().to_owned(), wanted, state })
}

/// What came to an end under the same wish is not tried again.
fn is_old_wish(held: &Held, wanted: &Value) -> bool {
    held.wanted.as_ref() == Some(&wanted.to_string())
}

/// Why a lever that cannot be read would not be set.
pub(super) fn refusal(wanted: &Value, held: Option<&Held>) -> Option<String> {
    let held = held.filter(|held| is_old_wish(held, wanted))?;
    match &held.state {
        HeldState::Refused { reason } => Some(format!("refused: {reason}")),
        _ => None,
    }
}

/// What would become of a lever that is `now`, where a class asks for `wanted` and the agent knows
/// `held` of it: what [`crate::act::Actuator`] does, in words.
pub(super) fn verdict(now: &Value, wanted: &Value, held: Option<&Held>) -> Verdict {
    if now.agrees_with(wanted) {
        return Verdict::Settled;
    }
    let is_old_wish = held.is_some_and(|held| is_old_wish(held, wanted));
    let leave = |reason: &str| Verdict::Leave(reason.to_owned());
    match held.map(|held| &held.state) {
        Some(HeldState::HandedOff { .. }) => leave("someone else changed it"),
        Some(HeldState::Refused { reason }) if is_old_wish => {
            Verdict::Leave(format!("refused: {reason}"))
        }
        Some(HeldState::AlreadySo) if is_old_wish => {
            leave("it was as wanted, and someone else changed it since")
        }
        Some(HeldState::Ours { ours, .. }) if *ours != now.to_string() => {
            leave("someone else changed it after downbeat had set it")
        }
        Some(HeldState::Ours { ours, .. }) if is_old_wish => Verdict::Leave(format!(
            "that was refused, and {ours} was set in its place (`downbeat explain` says why)"
        )),
        Some(HeldState::Ours { .. }) => Verdict::Set,
        _ if now.is_realtime() => {
            leave("it is real-time by its own wish, which is never taken away")
        }
        _ => Verdict::Set,
    }
}
