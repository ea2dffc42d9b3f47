//! Telling: socket and metrics.

pub mod metrics;
mod places;
pub mod socket;

pub use downbeat_api::peer::Rights;
