//! downbeat's agent as a library: `downbeatd` runs it, and `downbeat` borrows its readers for the
//! commands that work without a running agent (`check`, `doctor`, `restore`).
//!
//! Data goes one way: [`observe`] → [`model`] → [`decide`] → [`act`], with [`serve`] beside.

pub mod act;
pub mod cli;
pub mod decide;
pub mod engine;
pub mod model;
pub mod observe;
pub mod own_memory;
pub mod own_priority;
pub mod plan;
pub mod roots;
pub mod serve;
pub mod supervise;
