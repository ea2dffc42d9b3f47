//! What the pool shows of its requests: `/metrics` on the REST server, and the models of the status
//! (`downbeat pool ls`). Both are made from what [`crate::oip::statistics`] counted.
//!
//! The agent's `/metrics` has the workers' processes (`downbeat_pool_worker_…`), the pool's the
//! requests and models; no series is in both.

mod catalogue;
mod collect;
mod exposition;
pub mod status;

pub use exposition::{CONTENT_TYPE, encode};

#[cfg(test)]
mod tests;
