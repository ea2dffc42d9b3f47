//! Telling: socket and metrics.

pub mod metrics;
pub mod socket;
