//! Telling: socket and metrics.

pub mod metrics;
