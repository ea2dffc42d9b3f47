//! OpenMetrics over HTTP.
//!
//! [`catalogue`] lists every family with its help, unit and labels; `docs/metrics.md` is made from
//! it. [`collect`] turns a snapshot into samples of those families, and [`exposition`] writes them
//! down. There is no `pid` label anywhere: a series per process would grow without bound.

mod catalogue;
mod collect;
mod exposition;
mod host;
mod http;
mod jobs;

#[cfg(test)]
mod docs;
#[cfg(test)]
mod tests;

pub use exposition::{CONTENT_TYPE, encode};
pub use http::serve;
