//! downbeat's terminal: the live screens and the commands beside them.
//!
//! Rooms, in the order in which data passes through them: [`conn`] reads the agent's socket and
//! makes what it says safe to show ([`sanitise`]), [`state`] folds it into what the screen knows,
//! [`view`] draws that, [`input`] turns keys into commands for the state, and [`app`] is the loop
//! around them. [`commands`] are the subcommands, which borrow the same lines ([`report`]).

pub mod app;
pub mod cli;
pub mod commands;
pub mod conn;
pub mod input;
pub mod paint;
pub mod report;
pub mod sanitise;
pub mod screen;
pub mod state;
pub mod text;
pub mod theme;
pub mod units;
pub mod view;
