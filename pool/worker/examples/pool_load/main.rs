//! The client of `cargo xtask bench pool`: asks servers of the Open Inference Protocol as a plan
//! says, and prints what came of it as JSON.
//!
//!     cargo run --release -p downbeat-worker --example pool_load -- PLAN.json
//!
//! Requests of an open stream leave by an absolute schedule, and their time runs from there: a
//! client that is late itself counts against the server, never for it. One thread does everything,
//! so that what is measured is the server's.

mod added;
mod call;
mod connection;
mod grpc;
mod plan;
mod streams;
mod timer;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};

use plan::Plan;

fn main() -> Result<()> {
    let path = PathBuf::from(std::env::args_os().nth(1).context("give the plan's file")?);
    let text = std::fs::read(&path).with_context(|| format!("{}: reading it", path.display()))?;
    let plan = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    raise_limit_of_files()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let results = match plan {
        Plan::Added(plan) => serde_json::to_value(added::run(&plan, &runtime)?)?,
        Plan::Streams(plan) => {
            let local = tokio::task::LocalSet::new();
            serde_json::to_value(local.block_on(&runtime, streams::run(plan))?)?
        }
    };
    writeln!(std::io::stdout(), "{results}").context("telling the results")
}

/// Thousands of connections need a descriptor each.
fn raise_limit_of_files() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("getrlimit(RLIMIT_NOFILE)")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("setrlimit(RLIMIT_NOFILE)")
}
