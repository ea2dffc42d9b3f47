//! `downbeat-pool`: the worker pool's unprivileged data plane.
//!
//! It reads pool.d ([`config`]), keeps the declared workers running ([`run`], [`supervise`],
//! [`process`]), answers the agent and people on the control socket ([`control`]) and clients over the
//! Open Inference Protocol ([`oip`]) and Wyoming ([`wyoming`]). Models lie in a folder that it follows
//! ([`store`]); what becomes of requests is shown by [`metrics`].

pub mod adapters;
pub mod apart;
pub mod attachment;
pub mod backoff;
pub mod budget;
pub mod clock;
pub mod config;
pub mod confine;
pub mod control;
pub mod descriptors;
pub mod dispatch;
pub mod fleet;
pub mod groups;
pub mod inference;
pub mod keeper;
pub mod launch;
pub mod logs;
pub mod member;
pub mod memory;
pub mod metrics;
pub mod notify;
pub mod oip;
pub mod output;
pub mod outside;
pub mod paths;
pub mod process;
pub mod program;
pub mod progress;
pub mod rolling;
pub mod run;
pub mod scale;
pub mod store;
pub mod supervise;
pub mod view;
pub mod wyoming;
