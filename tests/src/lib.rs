//! What downbeat's end-to-end tests, load generators, VM harness and demo share.
//!
//! Nothing here is a stand-in for a part of downbeat: it starts the real programs, loads the real
//! kernel and looks at what came of it.

pub mod agent;
pub mod cgroup;
pub mod clock;
pub mod cpu_time;
pub mod guest;
pub mod processes;
pub mod prometheus;
pub mod record;
pub mod skip;
pub mod threads;
