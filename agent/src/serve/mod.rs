//! Telling: socket and metrics.

pub mod metrics;
mod onlookers;
mod places;
pub mod socket;

pub use downbeat_api::peer::Rights;

pub use onlookers::{Onlookers, View};
