//! downbeat's policy language: parse, check and match. Pure: no I/O and no clock.
//!
//! A policy is a set of TOML files ([`Source`]), read in name order. [`PolicySet::parse`] turns
//! them into classes and rules or into every [`Problem`] found, and [`PolicySet::classify`] says
//! which class a thread has and which rule gave it.

mod class;
mod cpus;
mod duration;
mod facts;
mod parse;
mod pattern;
mod problem;
mod rule;

pub use class::{
    Class, DEFAULT_RT_PRIORITY, Deadline, IoClass, IoPriority, Modality, Sched, SchedPolicy, Tier,
};
pub use cpus::{CpuList, CpuListError, HIGHEST_CPU};
pub use facts::{ParentFacts, ProcessFacts};
pub use parse::SCHEMA;
pub use pattern::{Pattern, PatternError};
pub use problem::{Origin, Problem};
pub use rule::{Classified, Matcher, Rule};

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
}
