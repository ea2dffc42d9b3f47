//! A program that takes bytes on its standard input and answers on its standard output: a process a
//! job, whose input ends before it answers, or one that is kept and told where a job ends.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio as Pipe;

use bytes::Bytes;
use downbeat_link::{Tensor, TensorSpec};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getppid};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use super::{MAX_ANSWER, default_output, first_input, output};
use crate::config::{Placement, Program, Stdio, StdioFraming, WorkerConfig};
use crate::confine::{self, NODES, Needs};
use crate::inference::{Refusal, Request};
use crate::process::{POOL_MARK, WORKER_MARK};

/// What is kept of a program's standard error for its message.
const LAST_WORDS: usize = 16 << 10;

/// See the module.
#[derive(Debug)]
pub struct StdioWorker {
    name: String,
    words: Vec<String>,
    env: Vec<(String, String)>,
    dir: PathBuf,
    run_dir: PathBuf,
    placement: Placement,
    output: TensorSpec,
    framing: Option<StdioFraming>,
    /// The kept process, between two jobs. One that a job left half answered is not put back.
    kept: Mutex<Option<Process>>,
}

#[derive(Debug)]
struct Process {
    /// Before the child: its group is killed while the child still holds the number.
    group: Group,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    stderr: ChildStderr,
}

/// A process group that dies with this value.
#[derive(Debug)]
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // ESRCH: nobody is left, which is what the signal is for.
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

impl StdioWorker {
    /// Starts nothing.
    pub(super) fn new(config: &WorkerConfig, stdio: Stdio, run_dir: &Path) -> Self {
        let words = match &config.program {
            Program::Command(words) => words.clone(),
            Program::Denoise | Program::Model(_) | Program::Elsewhere => Vec::new(),
        };
        Self {
            name: config.name.clone(),
            words,
            env: config.env.clone().into_iter().collect(),
            dir: config.dir.clone().unwrap_or_else(|| "/".into()),
            run_dir: run_dir.to_owned(),
            placement: config.placement.clone(),
            output: config.outputs.first().cloned().unwrap_or_else(default_output),
            framing: stdio.kept,
            kept: Mutex::new(None),
        }
    }

    pub(super) async fn infer(&self, request: &Request) -> Result<Vec<Tensor>, Refusal> {
        let input = first_input(request)?;
        let answer = match self.framing {
            None => self.once(&input).await?,
            Some(framing) => self.exchange(framing, &input).await?,
        };
        let failed = |reason| Refusal::Failed(format!("`{}`: {reason}", self.name));
        Ok(vec![output(&self.output, answer.into()).map_err(failed)?])
    }

    fn spawn(&self) -> Result<Process, Refusal> {
        let [program, arguments @ ..] = self.words.as_slice() else {
            return Err(Refusal::Failed(format!("`{}` has no command", self.name)));
        };
        // A name alone is a system program's, and `/` is where those are that asked for no folder.
        let own = [PathBuf::from(program), self.dir.clone()].into_iter();
        let own = own.filter(|path| path.is_absolute() && path != Path::new("/") && path.exists());
        let needs = Needs { read: own.collect(), write: Vec::new() };
        let confinement = confine::prepare(&self.placement, &needs, Path::new(NODES))
            .map_err(|reason| Refusal::Unavailable(format!("`{}`: {reason}", self.name)))?;
        let mut command = Command::new(program);
        if let Some((user, group)) = confinement.user {
            command.uid(user.as_raw()).gid(group.as_raw());
        }
        command
            .args(arguments)
            .current_dir(&self.dir)
            .envs(&confinement.env)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .env(WORKER_MARK, &self.name)
            .env(POOL_MARK, &self.run_dir)
            .stdin(Pipe::piped())
            .stdout(Pipe::piped())
            .stderr(Pipe::piped())
            .process_group(0)
            .kill_on_drop(true);
        let pool = Pid::this();
        // SAFETY: the closure runs in the child between fork and exec and makes a few syscalls; it
        // neither allocates nor takes a lock.
        unsafe {
            command.pre_exec(move || {
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The pool may have died before the line above; then no signal would ever come.
                if getppid() != pool {
                    return Err(Errno::ESRCH.into());
                }
                prctl::set_no_new_privs()?;
                // Last, so that nothing above needs what it takes away.
                confinement.enter()
            });
        }
        let mut child = command.spawn().map_err(|error| self.not_started(program, &error))?;
        let (Some(id), Some(stdin), Some(stdout), Some(stderr)) =
            (child.id(), child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Refusal::Failed(format!("`{}`: {program} has no pipes", self.name)));
        };
        let group = Group(Pid::from_raw(id.cast_signed()));
        Ok(Process { group, child, stdin, stdout: BufReader::new(stdout), stderr })
    }

    fn not_started(&self, program: &str, error: &io::Error) -> Refusal {
        let name = &self.name;
        Refusal::Unavailable(match error.kind() {
            io::ErrorKind::NotFound => format!(
                "`{name}`: the program `{program}` is not installed, or `dir` {} is not there; \
                 install it, or write its whole path in `command` of [worker.{name}]",
                self.dir.display()
            ),
            _ => format!("`{name}`: {program} cannot be started: {error}"),
        })
    }

    /// One process for one job.
    async fn once(&self, input: &[u8]) -> Result<Vec<u8>, Refusal> {
        let Process { group, mut child, mut stdin, stdout, stderr } = self.spawn()?;
        // A program may answer, or leave, before it has read everything.
        let write = async move {
            let _ = stdin.write_all(input).await;
        };
        let (mut answer, mut words) = (Vec::new(), Vec::new());
        let mut bounded = stdout.take(MAX_ANSWER as u64 + 1);
        let read = bounded.read_to_end(&mut answer);
        let ((), read, ()) = tokio::join!(write, read, last_words(stderr, &mut words));
        let failed = |reason: String| Refusal::Failed(format!("`{}`: {reason}", self.name));
        read.map_err(|error| failed(format!("its output: {error}")))?;
        if answer.len() > MAX_ANSWER {
            return Err(failed(format!("its answer is longer than {MAX_ANSWER} bytes")));
        }
        let said = last_line(&words);
        let outcome = match child.wait().await {
            Ok(status) if status.success() => Ok(answer),
            Ok(status) => Err(failed(format!("{}{said}", crate::process::describe(status)))),
            // The pool's own reaper was faster, so how it ended is not known: by its answer.
            Err(_) if !answer.is_empty() => Ok(answer),
            Err(error) => {
                Err(failed(format!("no answer, and how it ended is unknown: {error}{said}")))
            }
        };
        drop(group);
        outcome
    }

    /// One job for a process that is kept.
    async fn exchange(&self, framing: StdioFraming, input: &Bytes) -> Result<Vec<u8>, Refusal> {
        if framing == StdioFraming::Lines && input.contains(&b'\n') {
            return Err(Refusal::Invalid(format!(
                "`{}` takes one line a request, and the input has a line break within",
                self.name
            )));
        }
        let mut place = self.kept.lock().await;
        let mut kept = place.take();
        let alive =
            kept.as_mut().is_some_and(|process| matches!(process.child.try_wait(), Ok(None)));
        let mut process = match kept.filter(|_| alive) {
            Some(process) => process,
            None => self.spawn()?,
        };
        let failed = |reason: String| Refusal::Failed(format!("`{}`: {reason}", self.name));
        // Given up in between, the process is dropped with half an answer in its pipe, and killed.
        match talk(&mut process, framing, input).await {
            Ok(answer) => {
                *place = Some(process);
                Ok(answer)
            }
            Err(error) => {
                let Process { group, child, stderr, .. } = process;
                drop((group, child));
                let mut words = Vec::new();
                last_words(stderr, &mut words).await;
                Err(failed(format!("{error}; it is started anew{}", last_line(&words))))
            }
        }
    }
}

async fn talk(process: &mut Process, framing: StdioFraming, input: &[u8]) -> io::Result<Vec<u8>> {
    let (stdin, stdout) = (&mut process.stdin, &mut process.stdout);
    let write = async {
        match framing {
            StdioFraming::Lines => {
                stdin.write_all(input).await?;
                stdin.write_all(b"\n").await?;
            }
            StdioFraming::Length => {
                let length = u32::try_from(input.len()).map_err(io::Error::other)?;
                stdin.write_all(&length.to_le_bytes()).await?;
                stdin.write_all(input).await?;
            }
        }
        stdin.flush().await
    };
    let read = async {
        let mut answer = Vec::new();
        match framing {
            StdioFraming::Lines => {
                (&mut *stdout).take(MAX_ANSWER as u64).read_until(b'\n', &mut answer).await?;
                if answer.pop() != Some(b'\n') {
                    return Err(io::Error::other("it ended, or its line does not"));
                }
            }
            StdioFraming::Length => {
                let length = stdout.read_u32_le().await? as usize;
                if length > MAX_ANSWER {
                    let message = format!("it announces {length} bytes; at most {MAX_ANSWER}");
                    return Err(io::Error::other(message));
                }
                (&mut *stdout).take(length as u64).read_to_end(&mut answer).await?;
                if answer.len() < length {
                    return Err(io::Error::other("it ended within its answer"));
                }
            }
        }
        Ok(answer)
    };
    let ((), answer) = tokio::try_join!(write, read)?;
    Ok(answer)
}

/// Reads to the end, so that the program never waits, and keeps the last part.
async fn last_words(mut stderr: ChildStderr, words: &mut Vec<u8>) {
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = stderr.read(&mut piece).await {
        words.extend_from_slice(&piece[..length]);
        let excess = words.len().saturating_sub(LAST_WORDS);
        words.drain(..excess);
    }
}

fn last_line(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.map(|line| format!(": {}", line.trim())).unwrap_or_default()
}
