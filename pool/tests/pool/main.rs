//! The pool and its workers as real processes.

mod instances;
mod processes;
mod streams;
mod support;
