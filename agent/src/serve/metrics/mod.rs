//! OpenMetrics over HTTP.
//!
//! [`catalogue`] lists every family with its help, unit and labels; `docs/metrics.md` is made from
//! it. [`collect`] turns a snapshot into samples of those families; how they are written down is in
//! `downbeat-openmetrics`. There is no `pid` label anywhere: a series per process would grow without bound.

mod catalogue;
mod collect;
mod host;
mod http;
mod jobs;

#[cfg(test)]
mod docs;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

use std::fmt;

use downbeat_api::Snapshot;
pub use downbeat_openmetrics::CONTENT_TYPE;
pub use http::serve;

const PREFIX: &str = "downbeat";

/// A snapshot as OpenMetrics text.
///
/// # Errors
/// See [`downbeat_openmetrics::encode`].
pub fn encode(snapshot: &Snapshot) -> Result<String, fmt::Error> {
    downbeat_openmetrics::encode(PREFIX, collect::families(snapshot))
}
