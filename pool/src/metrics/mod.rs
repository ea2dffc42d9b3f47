//! What the pool shows of its requests: `/metrics` on the REST server, and the models of the status
//! (`downbeat pool ls`). Both are made from what [`crate::oip::statistics`] counted.
//!
//! The agent's `/metrics` has the workers' processes (`downbeat_pool_worker_…`), the pool's the
//! requests and models; no series is in both.

mod catalogue;
mod collect;
pub mod status;

use std::fmt;

pub use downbeat_openmetrics::CONTENT_TYPE;

use crate::oip::Models;

const PREFIX: &str = "downbeat_pool";

/// What is known of all models as OpenMetrics text.
///
/// # Errors
/// See [`downbeat_openmetrics::encode`].
pub fn encode(models: &Models) -> Result<String, fmt::Error> {
    downbeat_openmetrics::encode(PREFIX, collect::families(models))
}

#[cfg(test)]
mod tests;
