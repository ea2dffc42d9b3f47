//! What is running, and how it fares. Pure: samples in, a picture out.

pub mod histogram;
mod world;

pub use world::{ClassTotals, Process, Thread, World};
