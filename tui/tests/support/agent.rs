//! An agent's socket, spoken as the real one speaks it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use downbeat_api::{Mode, Request, Response, SOCKET_NAME, Snapshot};

use super::host;

/// A listening agent; its socket goes with it, and so do its connections.
pub struct FakeAgent {
    shared: Arc<Shared>,
    socket: PathBuf,
}

struct Shared {
    snapshot: Mutex<Snapshot>,
    asked: Mutex<Vec<Request>>,
    answers: Mutex<Vec<(Request, Response)>>,
    connections: Mutex<Vec<UnixStream>>,
    tick: Duration,
}

impl FakeAgent {
    /// Listens in `run_dir` and says `snapshot` every `tick`.
    pub fn start(run_dir: &Path, snapshot: Snapshot, tick: Duration) -> Self {
        let socket = run_dir.join(SOCKET_NAME);
        let listener = UnixListener::bind(&socket).unwrap();
        let shared = Arc::new(Shared {
            snapshot: Mutex::new(snapshot),
            asked: Mutex::new(Vec::new()),
            answers: Mutex::new(Vec::new()),
            connections: Mutex::new(Vec::new()),
            tick,
        });
        let of_thread = Arc::downgrade(&shared);
        thread::spawn(move || {
            for connection in listener.incoming() {
                let (Some(shared), Ok(connection)) = (of_thread.upgrade(), connection) else {
                    return;
                };
                shared.connections.lock().unwrap().push(connection.try_clone().unwrap());
                thread::spawn(move || serve(&shared, connection));
            }
        });
        Self { shared, socket }
    }

    /// What it says from now on.
    pub fn say(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.shared.snapshot.lock().unwrap());
    }

    /// What it answers to a request from now on.
    pub fn answer(&self, request: &Request, response: Response) {
        self.shared.answers.lock().unwrap().push((request.clone(), response));
    }

    /// What it was asked so far, `watch` and `snapshot` aside.
    pub fn asked(&self) -> Vec<Request> {
        self.shared.asked.lock().unwrap().clone()
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.socket));
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            drop(connection.shutdown(std::net::Shutdown::Both));
        }
    }
}

/// Ends when the client goes.
fn serve(shared: &Shared, connection: UnixStream) -> Option<()> {
    let mut lines = BufReader::new(connection.try_clone().ok()?).lines();
    let mut out = connection;
    while let Some(Ok(line)) = lines.next() {
        let request: Request = serde_json::from_str(&line).unwrap();
        match request {
            Request::Snapshot => say(&mut out, &current(shared))?,
            Request::Watch => loop {
                say(&mut out, &current(shared))?;
                thread::sleep(shared.tick);
            },
            other => {
                let answer = answer(shared, &other);
                shared.asked.lock().unwrap().push(other);
                say(&mut out, &answer)?;
            }
        }
    }
    None
}

fn current(shared: &Shared) -> Response {
    let mut snapshot = shared.snapshot.lock().unwrap();
    snapshot.tick += 1;
    for jobs in &mut snapshot.jobs {
        jobs.total.jobs += jobs.recent.jobs;
    }
    Response::Snapshot(Box::new(snapshot.clone()))
}

fn answer(shared: &Shared, request: &Request) -> Response {
    let answers = shared.answers.lock().unwrap();
    if let Some((_, response)) = answers.iter().find(|(known, _)| known == request) {
        return response.clone();
    }
    let mut snapshot = shared.snapshot.lock().unwrap();
    match request {
        Request::Pause | Request::Resume if snapshot.mode == Mode::ObserveOnly => Response::Error {
            message: "the agent runs with --observe-only; start it without to engage".into(),
        },
        Request::Pause => {
            snapshot.mode = Mode::Paused;
            Response::Done { message: "paused: 31 values put back".into() }
        }
        Request::Resume => {
            snapshot.mode = Mode::Engaged;
            Response::Done { message: "engaged: 31 values set".into() }
        }
        Request::Explain { pid } if snapshot.processes.iter().any(|p| p.pid == *pid) => {
            Response::Explain(Box::new(host::explanation(*pid)))
        }
        Request::Explain { pid } => {
            Response::Error { message: format!("{pid}: no such process or thread") }
        }
        Request::Reload | Request::Set { .. } | Request::Release { .. } => {
            Response::Done { message: "done".into() }
        }
        Request::Misses => Response::Misses { misses: snapshot.misses.clone() },
        Request::Follow { pid, seconds } if snapshot.processes.iter().any(|p| p.pid == *pid) => {
            snapshot.jobs.push(super::work::followed(*pid));
            Response::Done { message: format!("following {pid} for {seconds} s") }
        }
        Request::Follow { pid, .. } => {
            Response::Error { message: format!("{pid}: no such process") }
        }
        _ => Response::Host(Box::new(host::facts())),
    }
}

fn say(out: &mut UnixStream, response: &Response) -> Option<()> {
    let mut line = serde_json::to_vec(response).ok()?;
    line.push(b'\n');
    out.write_all(&line).ok()
}
