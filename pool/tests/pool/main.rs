//! The pool and its workers as real processes.

mod clients;
mod external;
mod instances;
mod models;
mod openai;
mod orphans;
mod ort;
mod processes;
mod programs;
mod recordings;
mod rest;
mod scaling;
mod seeing;
mod speech;
mod streams;
mod support;
