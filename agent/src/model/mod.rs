//! What is running, and how it fares. Pure: samples in, a picture out.

pub mod awake;
pub mod blame;
pub mod cause;
pub mod discovery;
pub mod frames;
pub mod gpu;
pub mod histogram;
pub mod host_history;
pub mod jobs;
pub mod misses;
pub mod overrides;
pub mod rhythm;
mod world;

pub use world::{Assigned, By, ClassTotals, Process, Thread, World};
