//! downbeat's policy language: parse, check and match. Pure: no I/O and no clock.
//!
//! A policy is a set of TOML files ([`Source`]), read in name order. [`PolicySet::parse`] turns
//! them into classes and rules or into every [`Problem`] found, and [`PolicySet::classify`] says
//! which class a thread has and which rule gave it.
//!
//! # The language, schema 1
//!
//! | key | value |
//! | --- | --- |
//! | `schema` | 1, in every file |
//! | `[class.NAME]` | NAME: up to 32 letters, digits, `-`, `_`; a file may use classes of another |
//! | `tier` | `realtime`, `interactive` or `background`; the one key that a class must have |
//! | `modality` | `audio`, `video`, `image`, `text`, `sensor` or `other` (default) |
//! | `deadline` | `"auto"` or a duration (`us`, `ms`, `s`) from 100 us to 60 s |
//! | `cpus` | `"all"` or a list such as `"0-3,6"` |
//! | `sched` | `"auto"` (default), `"keep"`, a policy (`other`, `batch`, `idle`, `fifo`, `rr`), or a table: `policy`, and `priority` 1 to 99 (`fifo`, `rr`) or `nice` −20 to 19 and `slice` 100 us to 100 ms (`other`, `batch`) |
//! | `io` | a table: `class` (`realtime`, `best-effort`, `idle`), `level` 0 to 7 (default 4) |
//! | `memory` | a table: `oom`, −1000 to 1000 |
//! | `[[rule]]` | `class` and `match`; also `name`, `priority` (default 0), `unless` |
//! | `match`, `unless` | tables of [`Pattern`]s, see [`Matcher`]; each value is one or a list of which one must fit |
//! | `any` | inside `match` or `unless`: a list of tables of which one must hold, together with the keys beside it; a key stands in one of the two places |
//!
//! Everything else is a [`Problem`], keys of later versions too.

mod auto;
mod class;
mod cpus;
mod duration;
mod facts;
mod index;
pub mod language;
mod levers;
mod matching;
mod needs;
mod parse;
mod pattern;
mod problem;
mod quantity;
mod rule;
mod sched;

pub use auto::Auto;
pub use class::{Class, Deadline, Modality, Tier};
pub use cpus::{ChosenCpus, CpuChoice, CpuGroup, CpuListError, HIGHEST_CPU};
pub use facts::{ContainerFacts, ParentFacts, ProcessFacts, Use, Uses};
pub use levers::{
    CpuLevers, CpuMax, Energy, Goal, GpuShare, IoClass, IoLevers, IoMax, IoPriority, Irqs,
    MemoryLevers, Uclamp,
};
pub use needs::Needs;
pub use parse::SCHEMA;
pub use pattern::{Pattern, PatternError};
pub use problem::{Origin, Problem};
pub use quantity::{Amount, Share};
pub use rule::{Classified, Matcher, NamedPattern, Rule};
pub use sched::{DEFAULT_RT_PRIORITY, Sched, SchedParameters, SchedPolicy, Span};

/// One policy file's text; reading it is the caller's business.
#[derive(Clone, Debug)]
pub struct Source {
    /// Shown in messages.
    pub path: std::path::PathBuf,
    /// The file's text.
    pub text: String,
}

/// Classes and rules from all files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicySet {
    /// In the order of their definition.
    pub classes: Vec<Class>,
    /// In the order in which they are tried: by `priority`, highest first, then as written.
    pub rules: Vec<Rule>,
    /// Classes for what no rule names.
    pub auto: Auto,
    /// Made from the rules once they are all known.
    index: index::Index,
}
