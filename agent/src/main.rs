//! downbeatd: start-up and shut-down of the agent.

use std::collections::HashSet;
use std::fs;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use clap::Parser;
use downbeat_agent::act::{
    Actuator, Cap, Journal, Kernel, RestoreReport, RunLock, Units, journals, restore_locked,
};
use downbeat_agent::cli::{Address, Cli};
use downbeat_agent::engine::{Engine, Notices, Parts, PolicyFolders, Reading, notice};
use downbeat_agent::observe::frames::{self, FrameSocket};
use downbeat_agent::observe::host;
use downbeat_agent::observe::kernel::{KernelProbes, ProbeOptions};
use downbeat_agent::own_priority;
use downbeat_agent::roots::Roots;
use downbeat_agent::serve::{Rights, View, metrics, socket};
use downbeat_agent::supervise::{PoolGroup, PoolOptions, PoolSupervisor, poll_status};
use downbeat_api::pool::PoolStatus;
use downbeat_api::{HostFacts, SOCKET_NAME, Severity};
use downbeat_policy::PolicySet;
use nix::sys::signal::{SigHandler, Signal, signal};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};

fn main() -> ExitCode {
    ignore_early_reload();
    let cli = Cli::parse();
    log_to_stderr();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("downbeatd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A SIGHUP before the loop listens asks for what start-up does anyway, and must not end it.
fn ignore_early_reload() {
    // SAFETY: no handler is installed, so none can run at a bad moment.
    let ignored = unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) };
    if let Err(error) = ignored {
        eprintln!("downbeatd: ignoring SIGHUP during start-up: {error}");
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let roots = Roots::default();
    make_run_dir(&cli.run_dir)?;
    let lock = RunLock::acquire(&cli.run_dir)?;
    let mut notices = Notices::default();
    if cli.observe_only {
        tell_of_predecessors_changes(&cli.run_dir, &mut notices);
    } else {
        put_back_predecessors_changes(&cli.run_dir, &roots, &mut notices)?;
    }
    // After the above, so that a policy that is refused does not keep a predecessor's changes.
    let (policy, policy_folders) = read_policy(cli)?;
    let host = Arc::new(host::probe(&roots));
    // Before the own priority is raised: the levers learn the kernel's default slice from this
    // thread.
    let kernel = Kernel::new(&roots);
    let reading = Arc::new(Kernel::new(&roots));
    let serve_roots = roots.clone();
    own_priority::raise(&host);
    let mut probes = load_probes(cli, &roots);
    let actuator = if cli.observe_only {
        None
    } else {
        let (actuator, left) = actuator(cli, &roots, &host, kernel)?;
        if let Ok(probes) = &mut probes {
            probes.outlive_kills(&cli.run_dir, &roots);
            left.into_iter().for_each(|pid| probes.claim(pid));
        }
        Some(actuator)
    };

    // The engine's thread is this one: the pool is told to stop when the thread that started it
    // ends, so that thread must live as long as the agent.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    let rights = Arc::new(rights(cli));
    let socket = socket::bind(&cli.run_dir.join(SOCKET_NAME), &rights)?;
    let metrics = listen(cli.listen, &mut notices);
    let (status_sender, pool_status) = watch::channel(None);
    let pool = PoolSupervisor::new(pool_options(cli, &roots));
    let has_pool = pool.is_some();
    let frames = open_frames(&cli.run_dir, &mut notices);
    let units = units(cli, &roots, &host);
    let parts = Parts {
        roots,
        host: Arc::clone(&host),
        host_name: host_name(),
        policy,
        policy_folders,
        probes,
        actuator,
        units,
        pool,
        pool_status,
        frames,
        notices,
    };
    let (engine, view) = Engine::start(parts);
    let (command_sender, commands) = mpsc::channel(16);
    let sources = socket::Sources {
        view: view.clone(),
        host,
        commands: command_sender,
        kernel: reading,
        roots: serve_roots,
        rights,
    };
    let status = has_pool.then(|| (cli.run_dir.clone(), status_sender));
    thread::Builder::new()
        .name("serve".into())
        .spawn(move || serve(socket, sources, metrics, view, status))
        .context("starting the thread that serves clients")?;
    notify_ready();
    tracing::info!("watching; socket {}", cli.run_dir.join(SOCKET_NAME).display());
    let left = runtime.block_on(engine.run(commands)).context("the agent's loop")?;

    let _ = fs::remove_file(cli.run_dir.join(SOCKET_NAME));
    drop(lock);
    if left > 0 {
        anyhow::bail!(
            "stopped, but {left} of the values that were set could not be put back (see above); \
             run `downbeat restore` once what is in the way is gone"
        );
    }
    tracing::info!("stopped; everything is as it was");
    Ok(())
}

/// Clients are served on a thread of ordinary priority, so that however many they are, the engine
/// is not kept from its work.
fn serve(
    socket: std::os::unix::net::UnixListener,
    sources: socket::Sources,
    metrics: Option<std::net::TcpListener>,
    view: View,
    status: Option<(std::path::PathBuf, watch::Sender<Option<PoolStatus>>)>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!("no clients can be served: {error}"),
    };
    runtime.block_on(async {
        if let Some((run_dir, sender)) = status {
            tokio::spawn(poll_status(run_dir, sender));
        }
        if let Some(listener) = metrics {
            tokio::spawn(async move {
                let result = match TcpListener::from_std(listener) {
                    Ok(listener) => metrics::serve(listener, view).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = result {
                    tracing::error!("the metrics server ended: {error}");
                }
            });
        }
        match UnixListener::from_std(socket) {
            Ok(socket) => socket::serve(socket, sources).await,
            Err(error) => tracing::error!("the socket cannot be served: {error}"),
        }
    });
}

fn make_run_dir(run_dir: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(run_dir).with_context(|| {
        format!("{}: making the run directory; name another with --run-dir", run_dir.display())
    })
}

fn read_policy(cli: &Cli) -> anyhow::Result<(PolicySet, PolicyFolders)> {
    let folders = cli.policy_dirs();
    let reading = Reading::of(&folders);
    let policy_folders = PolicyFolders::new(folders, &reading);
    let more = reading.more;
    let policy = reading.outcome.map_err(|problems| {
        let mut problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        problems.extend((more > 0).then(|| format!("and {more} more problems")));
        let problems = problems.join("\n  ");
        anyhow::anyhow!("the policy is refused (try `downbeat check` on the file):\n  {problems}")
    })?;
    Ok((policy, policy_folders))
}

/// What becomes of changes that could not be put back.
const AT_THE_STOP: &str = "they are tried again at the stop; a journal that is not understood is \
                           kept in the run directory, as *.unread-1";

/// A killed agent left its journal: what it set goes back before anything new is set.
fn put_back_predecessors_changes(
    run_dir: &Path,
    roots: &Roots,
    notices: &mut Notices,
) -> anyhow::Result<()> {
    let report = restore_locked(run_dir, roots)?;
    let RestoreReport { restored, handed_off, failed, notes, .. } = &report;
    if *restored > 0 || *handed_off > 0 || !failed.is_empty() {
        let text = format!("an earlier agent was killed; of its changes: {report}");
        tracing::warn!("{text}");
        let (severity, remedy) = if failed.is_empty() {
            (Severity::Info, None)
        } else {
            (Severity::Warning, Some(AT_THE_STOP))
        };
        notices.set("predecessor", vec![notice(severity, text, remedy)]);
    } else if !notes.is_empty() {
        let text = notes.join("; ");
        tracing::info!("{text}");
        notices.set("predecessor", vec![notice(Severity::Info, text, None)]);
    }
    Ok(())
}

/// An agent that changes nothing leaves also this to the user.
fn tell_of_predecessors_changes(run_dir: &Path, notices: &mut Notices) {
    if journals(run_dir).iter().any(|path| path.exists()) {
        let text =
            "an earlier agent was killed and left changes, which --observe-only leaves alone";
        let remedy = Some("stop this agent and run `downbeat restore`");
        notices.set("predecessor", vec![notice(Severity::Warning, text, remedy)]);
    }
}

fn load_probes(cli: &Cli, roots: &Roots) -> Result<KernelProbes, String> {
    if cli.no_bpf {
        return Err("switched off with --no-bpf".to_owned());
    }
    let options =
        ProbeOptions { log: cli.bpf_log, btf: cli.btf.clone(), ..ProbeOptions::default() };
    KernelProbes::load(roots, &options).map_err(|error| {
        let reason = error.to_string();
        tracing::warn!("no kernel programs, /proc alone: {reason}");
        reason
    })
}

fn actuator(
    cli: &Cli,
    roots: &Roots,
    host: &HostFacts,
    kernel: Kernel,
) -> anyhow::Result<(Actuator<Kernel>, HashSet<u32>)> {
    let (journal, left) = Journal::open(&cli.run_dir, roots).with_context(|| {
        format!("{}: making the journal; without it nothing is changed", cli.run_dir.display())
    })?;
    let cap = Cap::of(host.cpus.len(), host::realtime_share(roots));
    let mut actuator = Actuator::new(kernel, journal, cap);
    let processes = left.keys().filter_map(|(subject, _)| subject.pid()).collect();
    actuator.take_over(left);
    Ok((actuator, processes))
}

/// Who may use the socket.
fn rights(cli: &Cli) -> Rights {
    let rights = Rights::of_groups(&cli.read_group, &cli.change_group);
    tracing::info!("socket: {}", rights.words());
    rights
}

fn listen(address: Address, notices: &mut Notices) -> Option<std::net::TcpListener> {
    let Address::At(address) = address else {
        return None;
    };
    let open = |address: SocketAddr| {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(listener)
    };
    match open(address) {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::error!("{address}: {error}; no metrics");
            let text = format!("no metrics: {address}: {error}");
            let remedy = Some("give --listen a free address, or `off`");
            notices.set("metrics", vec![notice(Severity::Error, text, remedy)]);
            None
        }
    }
}

/// Asks systemd for what its units should have, where it is there to be asked.
fn units(cli: &Cli, roots: &Roots, host: &HostFacts) -> Option<Units> {
    let runs_systemd = host
        .findings
        .iter()
        .any(|finding| finding.id == "systemd" && finding.state == downbeat_api::State::Present);
    if cli.observe_only || !runs_systemd {
        return None;
    }
    let started = Units::start(&cli.run_dir, roots);
    started.inspect_err(|error| tracing::error!("systemd will not be asked: {error}")).ok()
}

/// Programs mark their frames here; without it they go on as if nobody listened.
fn open_frames(run_dir: &Path, notices: &mut Notices) -> Option<FrameSocket> {
    match FrameSocket::bind(&run_dir.join(frames::SOCKET_NAME)) {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::error!("no marked frames: {error}");
            let text = format!("no marked frames: {error}");
            notices.set("marks", vec![notice(Severity::Warning, text, None)]);
            None
        }
    }
}

fn pool_options(cli: &Cli, roots: &Roots) -> PoolOptions {
    PoolOptions {
        program: cli.pool_bin.clone(),
        pool_dir: cli.pool_dir.clone(),
        run_dir: cli.run_dir.clone(),
        user: cli.pool_user.clone(),
        rest: cli.pool_rest.clone(),
        grpc: cli.pool_grpc.clone(),
        wyoming: cli.pool_wyoming.clone(),
        groups: [cli.read_group.clone(), cli.change_group.clone()],
        group: if cli.observe_only {
            Err("this agent only observes".into())
        } else {
            PoolGroup::find(roots, &cli.run_dir)
        },
    }
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Tells systemd (`Type=notify`) that the first scan is done; nothing happens elsewhere.
fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = std::os::unix::net::UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(b"READY=1", &path));
    if let Err(error) = sent {
        tracing::warn!("NOTIFY_SOCKET {}: {error}", path.display());
    }
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("DOWNBEAT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // The subscriber takes in what libraries write through `log`, the kernel programs' lines
    // among it.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
