//! Telling: socket and metrics.

pub mod metrics;
mod peer;
mod places;
pub mod socket;

pub use peer::Rights;
