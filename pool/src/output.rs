//! Workers' standard error, line by line into the pool's log.

use std::process::ChildStderr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tracing::info;

/// Longer lines are cut.
const MAX_LINE: usize = 1024;

/// Lines per second of one worker; the others are counted.
const MAX_RATE: u32 = 50;

/// Older lines say nothing about an end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A worker's latest line, for the note on its end.
#[derive(Clone, Debug, Default)]
pub struct LastLine(Arc<Mutex<Option<(Instant, String)>>>);

impl LastLine {
    fn set(&self, now: Instant, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, text));
    }

    /// The line, where it is so fresh that it may explain an end at `now`.
    pub fn words(&self, now: Instant) -> Option<String> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, text) = last.as_ref()?;
        (now.saturating_duration_since(*at) <= LAST_WORDS).then(|| text.clone())
    }
}

/// Copies lines to the log until all holders of the pipe are gone.
pub async fn copy(name: String, stderr: ChildStderr, last: LastLine) {
    let pipe = match Receiver::from_owned_fd(stderr.into()) {
        Ok(pipe) => pipe,
        Err(error) => {
            info!(worker = name, "its standard error cannot be read: {error}");
            return;
        }
    };
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    let mut gate = Gate::new(Instant::now());
    // Bytes, not lines: a worker that never ends its line must not fill the memory.
    while let Ok(byte) = pipe.read_u8().await {
        if byte != b'\n' && byte != b'\r' {
            if line.len() < MAX_LINE {
                line.push(byte);
            }
            continue;
        }
        if line.is_empty() {
            continue;
        }
        let text = printable(&line);
        line.clear();
        last.set(Instant::now(), text.clone());
        match gate.pass(Instant::now()) {
            Some(0) => info!(worker = name, "{text}"),
            Some(lost) => info!(worker = name, "{text} ({lost} lines before it left out)"),
            None => {}
        }
    }
    if !line.is_empty() {
        let text = printable(&line);
        info!(worker = name, "{text}");
        last.set(Instant::now(), text);
    }
}

/// Text without the control characters that could rewrite a terminal's lines.
fn printable(line: &[u8]) -> String {
    String::from_utf8_lossy(line)
        .chars()
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}

/// Lets [`MAX_RATE`] lines a second pass.
struct Gate {
    since: Instant,
    passed: u32,
    lost: u64,
}

impl Gate {
    fn new(now: Instant) -> Self {
        Self { since: now, passed: 0, lost: 0 }
    }

    /// How many lines were left out before this one, if this one may pass.
    fn pass(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.passed) = (now, 0);
        }
        if self.passed == MAX_RATE {
            self.lost += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let start = Instant::now();
        let mut gate = Gate::new(start);
        let passed = (0..120).filter(|_| gate.pass(start).is_some()).count();
        assert_eq!(passed, 50);
        assert_eq!(gate.pass(start + Duration::from_secs(1)), Some(70));
        assert_eq!(gate.pass(start + Duration::from_secs(1)), Some(0));
    }

    #[test]
    fn only_a_fresh_line_explains_an_end() {
        let now = Instant::now();
        let last = LastLine::default();
        assert_eq!(last.words(now), None);
        last.set(now, "no model".into());
        let words = |after| last.words(now + Duration::from_millis(after));
        assert_eq!(words(1000).as_deref(), Some("no model"));
        assert_eq!(words(1001), None);
    }

    #[test]
    fn control_characters_cannot_reach_a_terminal() {
        assert_eq!(printable(b"a\x1b[2Jb\xff\tc"), "a\u{fffd}[2Jb\u{fffd}\tc");
    }
}
