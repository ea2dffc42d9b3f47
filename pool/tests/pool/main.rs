//! The pool and its workers as real processes.

mod processes;
mod streams;
mod support;
