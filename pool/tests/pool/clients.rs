//! Clients as people install them, against a pool: pool/tests/clients.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rest::MODELS;
use crate::support::TestPool;
use downbeat_api::pool::WorkerState;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// The Python with the clients, made once and kept under `target` until its requirements change.
pub fn python() -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (folder, stamp) = (tmp.join("clients"), tmp.join("clients/requirements.txt"));
    let wanted = fs::read_to_string(Path::new(FOLDER).join("requirements.txt")).unwrap();
    // Tests run side by side, also those of two processes.
    let lock = File::create(tmp.join("clients.lock")).unwrap();
    lock.lock().unwrap();
    if fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return folder.join("bin/python");
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
    let pip = folder.join("bin/pip");
    let quiet = ["install", "--quiet", "--disable-pip-version-check", "--requirement"];
    run(Command::new(pip).args(quiet).arg(Path::new(FOLDER).join("requirements.txt")));
    fs::write(stamp, wanted).unwrap();
    folder.join("bin/python")
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; install python3-venv (Debian's name)")
    });
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs a script over a pool with a noise remover and a model of the store.
fn script(name: &str, arguments: impl Fn(&TestPool) -> Vec<String>) {
    let mut pool = TestPool::start_with(
        "[worker.mic]\nmodel = \"denoise\"\n[worker.glyphs]\nmodel = \"glyphs\"\n",
        &["--rest", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--models", MODELS],
    );
    pool.wait_for("mic", WorkerState::Ready);
    pool.wait_for("glyphs", WorkerState::Ready);
    let arguments = arguments(&pool);
    script_with(&mut pool, name, &arguments);
}

/// Runs a script over a pool.
pub fn script_with(pool: &mut TestPool, name: &str, arguments: &[String]) {
    let output = Command::new(python())
        .arg(Path::new(FOLDER).join(name))
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}\nthe pool's log:\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        pool.log()
    );
    assert_eq!(pool.child.try_wait().unwrap(), None, "the pool ended; log:\n{}", pool.log());
}

#[test]
fn tritons_clients_work_over_http_grpc_and_a_unix_socket() {
    script("triton.py", |pool| {
        let status = pool.try_status().unwrap();
        let socket = pool.socket("grpc.sock").display().to_string();
        vec![status.rest.unwrap(), status.grpc.unwrap(), socket]
    });
}

#[test]
fn broken_slow_and_half_closed_connections_cost_only_themselves() {
    script("sockets.py", |pool| {
        let socket = pool.socket("rest.sock").display().to_string();
        vec![pool.try_status().unwrap().rest.unwrap(), socket]
    });
}
