//! downbeat's policy language: parse, check and match. Pure: no I/O and no clock.
//!
//! A policy is a set of TOML files ([`Source`]), read in name order. [`PolicySet::parse`] turns
//! them into classes and rules or into every [`Problem`] found, and [`PolicySet::classify`] says
//! which class a thread has and which rule gave it.
//!
//! The language itself is described by [`language`], from which the parser takes the keys and the
//! bounds, and for people by `docs/policy.md`. What is not known is a [`Problem`].

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
pub use facts::{ContainerFacts, ParentFacts, ProcessFacts, ProcessKind, Use, Uses};
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
