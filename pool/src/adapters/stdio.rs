//! A program that takes bytes on its standard input and answers on its standard output: a process a
//! job, whose input ends before it answers, or one that is kept and told where a job ends.

use std::io;
use std::path::Path;
use std::process::Stdio as Pipe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use downbeat_link::{Tensor, TensorSpec};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{MAX_ANSWER, default_output, first_input, output};
use crate::config::{Stdio, StdioFraming, WorkerConfig};
use crate::inference::{Refusal, Request};
use crate::launch::{Extras, Home, Launch};
use crate::process::{SpawnError, spawn_error};
use crate::program::command_line;

/// What is kept of a program's standard error for its message.
const LAST_WORDS: usize = 16 << 10;

/// How long the output of a program that has ended may stay open: whoever holds it left the
/// program's family, and may hold it for ever.
const LINGER: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct StdioWorker {
    config: WorkerConfig,
    output: TensorSpec,
    framing: Option<StdioFraming>,
    /// The kept process, between two jobs. One that a job left half answered is not put back.
    kept: Mutex<Option<Process>>,
    home: Arc<Home>,
}

#[derive(Debug)]
struct Process {
    /// Before the child: its group is killed while the child still holds the number.
    family: Family,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// Reads its standard error to the end: the program would wait where nobody did. Its task ends
    /// with this value, whoever holds the pipe.
    words: JoinSet<Vec<u8>>,
}

/// A process with all that it started; they die with this value.
#[derive(Debug)]
struct Family {
    leader: Pid,
    home: Arc<Home>,
    _launch: Launch,
}

impl Drop for Family {
    fn drop(&mut self) {
        // ESRCH: nobody is left, which is what the signal is for.
        let _ = killpg(self.leader, Signal::SIGKILL);
        if let Some(group) = self.home.group() {
            group.end();
        }
    }
}

impl StdioWorker {
    /// Starts nothing.
    pub(super) fn new(config: &WorkerConfig, stdio: Stdio, home: Home) -> Self {
        Self {
            config: config.clone(),
            output: config.outputs.first().cloned().unwrap_or_else(default_output),
            framing: stdio.kept,
            kept: Mutex::new(None),
            home: Arc::new(home),
        }
    }

    pub(super) async fn infer(&self, request: &Request) -> Result<Vec<Tensor>, Refusal> {
        let input = first_input(request)?;
        let answer = match self.framing {
            None => self.once(&input).await?,
            Some(framing) => self.exchange(framing, &input).await?,
        };
        let failed = |reason| Refusal::Failed(format!("`{}`: {reason}", self.config.name));
        Ok(vec![output(&self.output, answer.into()).map_err(failed)?])
    }

    fn spawn(&self) -> Result<Process, Refusal> {
        let name = &self.config.name;
        let unavailable = |reason: String| Refusal::Unavailable(format!("`{name}`: {reason}"));
        let said = |error: SpawnError| match error {
            SpawnError::Lasting(reason) | SpawnError::Passing(reason) => unavailable(reason),
        };
        let line = command_line(&self.config, name, 0, None, Path::new("")).map_err(unavailable)?;
        let (command, launch) =
            self.home.prepare(&self.config, &line, Extras::default()).map_err(said)?;
        let mut command = Command::from(command);
        command.stdin(Pipe::piped()).stdout(Pipe::piped()).stderr(Pipe::piped()).kill_on_drop(true);
        let mut child =
            command.spawn().map_err(|error| said(spawn_error(&line.program, &error)))?;
        let (Some(id), Some(stdin), Some(stdout), Some(stderr)) =
            (child.id(), child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            let program = line.program.display();
            return Err(Refusal::Failed(format!("`{name}`: {program} has no pipes")));
        };
        let pid = Pid::from_raw(id.cast_signed());
        launch.runs_as(pid);
        let family = Family { leader: pid, home: Arc::clone(&self.home), _launch: launch };
        let mut words = JoinSet::new();
        words.spawn(last_words(stderr));
        Ok(Process { family, child, stdin, stdout: BufReader::new(stdout), words })
    }

    /// One process for one job.
    async fn once(&self, input: &[u8]) -> Result<Vec<u8>, Refusal> {
        let Process { family, mut child, mut stdin, stdout, mut words } = self.spawn()?;
        let failed = |reason: String| Refusal::Failed(format!("`{}`: {reason}", self.config.name));
        let write = async move {
            // A program may answer, or leave, before it has read everything.
            let _ = stdin.write_all(input).await;
            Ok(())
        };
        let read = async move {
            let mut answer = Vec::new();
            let mut bounded = stdout.take(MAX_ANSWER as u64 + 1);
            let read = bounded.read_to_end(&mut answer).await;
            read.map_err(|error| format!("its output: {error}"))?;
            if answer.len() > MAX_ANSWER {
                return Err(format!("its answer is longer than {MAX_ANSWER} bytes"));
            }
            Ok(answer)
        };
        let listen =
            async move { Ok(words.join_next().await.and_then(Result::ok).unwrap_or_default()) };
        let pipes = async { tokio::try_join!(write, read, listen) };
        // What it started ends with it, and with that the pipes that they share.
        let end = async move {
            let status = child.wait().await;
            drop(family);
            status
        };
        tokio::pin!(pipes, end);
        let (carried, status) = tokio::select! {
            carried = &mut pipes => {
                // Given up where that failed, which kills it.
                let carried = carried.map_err(failed)?;
                (carried, end.await)
            }
            status = &mut end => {
                let carried = timeout(LINGER, pipes).await.unwrap_or_else(|_| {
                    Err("it ended, and something that it started holds its output open".into())
                });
                (carried.map_err(failed)?, status)
            }
        };
        let ((), answer, words) = carried;
        let said = last_line(&words);
        match status {
            Ok(status) if status.success() => Ok(answer),
            Ok(status) => Err(failed(format!("{}{said}", crate::process::describe(status)))),
            Err(error) => Err(failed(format!("how it ended is unknown: {error}{said}"))),
        }
    }

    /// One job for a process that is kept.
    async fn exchange(&self, framing: StdioFraming, input: &Bytes) -> Result<Vec<u8>, Refusal> {
        if framing == StdioFraming::Lines && input.contains(&b'\n') {
            return Err(Refusal::Invalid(format!(
                "`{}` takes one line a request, and the input has a line break within",
                self.config.name
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
        let failed = |reason: String| Refusal::Failed(format!("`{}`: {reason}", self.config.name));
        // Given up in between, the process is dropped with half an answer in its pipe, and killed.
        match talk(&mut process, framing, input).await {
            Ok(answer) => {
                *place = Some(process);
                Ok(answer)
            }
            Err(error) => {
                let Process { family, child, mut words, .. } = process;
                drop((family, child));
                let words = timeout(LINGER, words.join_next()).await.ok().flatten();
                let words = words.and_then(Result::ok).unwrap_or_default();
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
async fn last_words(mut stderr: ChildStderr) -> Vec<u8> {
    let (mut words, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = stderr.read(&mut piece).await {
        words.extend_from_slice(&piece[..length]);
        let excess = words.len().saturating_sub(LAST_WORDS);
        words.drain(..excess);
    }
    words
}

fn last_line(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.map(|line| format!(": {}", line.trim())).unwrap_or_default()
}
