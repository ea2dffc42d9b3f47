//! A host that does not exist, as the agent would tell of it, and an agent that tells it.

#![allow(dead_code, reason = "each test program uses its own part of this")]
#![allow(clippy::allow_attributes, reason = "an expectation would fail where all of it is used")]

pub mod agent;
pub mod host;
pub mod screen;
pub mod work;
