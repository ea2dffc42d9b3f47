//! The pool and its workers as real processes.

mod clients;
mod instances;
mod openai;
mod processes;
mod streams;
mod support;
