//! What is asked of the levers, and what came of it.

use super::journal::Change;
use super::subject::Subject;
use super::value::{Lever, Value};

/// Where one lever of one subject stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Set by us; the change says what goes back.
    Ours(Change),
    /// It had the wanted value already.
    AlreadySo,
    /// The thread is real-time by its own wish; this is what it has.
    RealtimeByOwnWish(Value),
    /// Someone else changed it after us to this value: theirs from then on.
    HandedOff(Value),
    /// The kernel, or the journal, refused.
    Refused(String),
}

/// One lever of one subject: what was asked for and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct LeverEntry {
    /// Asked for; absent for a value that was only inherited.
    pub wanted: Option<Value>,
    /// What came of it.
    pub standing: Standing,
}

/// What one request asks for.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Whom it is for.
    pub subject: Subject,
    /// At most one value per lever; a lever that is not named is put back if it was ours.
    pub wanted: &'a [Value],
    /// For a wanted value that is refused, what is tried in its place, in this order: any number
    /// of values per lever.
    pub otherwise: &'a [Value],
}

/// Something that [`Actuator`] did, for counting and for showing.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// Where.
    pub subject: Subject,
    /// What.
    pub lever: Lever,
    /// How it went.
    pub event: Event,
}

/// How it went.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A value was set.
    Applied {
        /// Before.
        old: Value,
        /// Now.
        new: Value,
    },
    /// It was refused.
    Failed {
        /// What was wanted.
        wanted: Value,
        /// The kernel's words.
        reason: String,
    },
    /// The old value went back.
    Restored {
        /// Back to this.
        old: Value,
    },
    /// Someone else changed it after us.
    HandedOff {
        /// What we had set.
        ours: Value,
        /// What it is now.
        theirs: Value,
    },
}
