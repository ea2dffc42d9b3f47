//! `downbeat-pool`: see the library of this name.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Parser, ValueEnum};
use downbeat_pool::logs::Logs;
use downbeat_pool::{descriptors, oip, paths, process, run};
use downbeat_queue::Order;
use tracing::{error, warn};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// downbeat's worker pool: runs the workers of pool.d and serves them on loopback.
///
/// SIGHUP reads pool.d again and gives workers that failed another chance.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Folder of the workers' declarations (*.toml).
    #[arg(long, value_name = "DIR", default_value = "/etc/downbeat/pool.d")]
    pool_dir: PathBuf,
    /// Run directory; the pool's sockets lie in its folder `pool`.
    #[arg(long, value_name = "DIR", default_value = downbeat_api::DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// Address of the REST server (Open Inference Protocol), or `off`.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8600")]
    rest: Listen,
    /// Address of the gRPC server (Open Inference Protocol), or `off`.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8601")]
    grpc: Listen,
    /// Address of the Wyoming server (voice assistants), or `off`. It listens as soon as a worker of
    /// pool.d declares `wyoming`.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8602")]
    wyoming: Listen,
    /// Program of the built-in workers; by default the downbeat-worker beside this program, else
    /// that in PATH.
    #[arg(long, value_name = "PATH")]
    worker_bin: Option<PathBuf>,
    /// Folder of the models that `model = "NAME"` names, one folder each.
    #[arg(long, value_name = "DIR", default_value = run::DEFAULT_MODELS)]
    models: PathBuf,
    /// Group whose members may look at the control socket (`downbeat pool ls`).
    #[arg(long, value_name = "GROUP", default_value = "downbeat")]
    read_group: String,
    /// Group whose members may also change something there (`downbeat pool load`).
    #[arg(long, value_name = "GROUP", default_value = "downbeat-admin")]
    change_group: String,
    /// Control group (version 2) below which each worker gets one of its own; it must belong to the
    /// pool's user. The agent gives one where it can.
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// Where the kernel says how much memory is free.
    #[arg(long, value_name = "FILE", default_value = "/proc/meminfo", hide = true)]
    meminfo: PathBuf,
    /// Order of requests: `deadline`, or `arrival` to compare with (`cargo xtask bench pool`).
    #[arg(long, value_name = "ORDER", default_value = "deadline", hide = true)]
    order: OrderOf,
}

/// `deadline` or `arrival`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OrderOf {
    Deadline,
    Arrival,
}

/// `ADDR` or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listen(Option<SocketAddr>);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(|address| Self(Some(address))).map_err(|_| {
            "give an address with a port, like 127.0.0.1:8600 or [::1]:8600, or `off`".into()
        })
    }
}

fn main() -> ExitCode {
    process::hold_hangup();
    supervise()
}

// One thread for everything: the workers must be started by the main thread (see `process`), and
// nothing here computes.
#[tokio::main(flavor = "current_thread")]
async fn supervise() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let written = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // What is kept for `downbeat pool logs` does not depend on what is written.
    let logs = Logs::default();
    tracing_subscriber::registry()
        .with(written.with_filter(filter))
        .with(logs.clone().with_filter(LevelFilter::INFO))
        .init();
    if let Err(error) = descriptors::raise() {
        warn!("the limit of open files stays as it is, and with it that of connections: {error}");
    }
    let settings = run::Settings {
        pool_dir: arguments.pool_dir,
        run_dir: arguments.run_dir,
        worker_bin: arguments.worker_bin,
        // Workers have other working directories.
        models: std::path::absolute(&arguments.models).unwrap_or(arguments.models),
        read_group: arguments.read_group,
        change_group: arguments.change_group,
        group: arguments.cgroup,
        meminfo: arguments.meminfo,
        order: match arguments.order {
            OrderOf::Deadline => Order::Deadline,
            OrderOf::Arrival => Order::Arrival,
        },
    };
    let serve = async |backend, paths: &paths::Paths| {
        let socket = |name| paths.server(name).ok();
        let places = oip::Places {
            rest: arguments.rest.0,
            grpc: arguments.grpc.0,
            wyoming: arguments.wyoming.0,
            rest_socket: socket(paths::REST_SOCKET),
            grpc_socket: socket(paths::GRPC_SOCKET),
            wyoming_socket: socket(paths::WYOMING_SOCKET),
        };
        oip::serve(backend, places).await
    };
    match run::run(settings, logs, serve).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            error!("{reason:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_off() {
        assert_eq!("off".parse(), Ok(Listen(None)));
        assert_eq!("127.0.0.1:1".parse(), Ok(Listen(Some(([127, 0, 0, 1], 1).into()))));
        let error = "localhost".parse::<Listen>().unwrap_err();
        assert!(error.contains("127.0.0.1:8600"), "{error}");
    }
}
