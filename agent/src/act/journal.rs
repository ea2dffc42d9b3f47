//! Old values on disk, written before a change, so that a killed agent leaves a way back.
//!
//! One JSON record a line, appended. The first line names the boot: thread ids and start times of
//! another boot mean nothing. The file lives under `/run`, which is memory: what a killed process
//! wrote is there for its successor, and no sync to a disk is needed.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::clock::boot_ticks;
use super::subject::Subject;
use super::value::{Lever, Sched, Value};
use crate::roots::Roots;

/// The journal's name inside the run directory.
pub const FILE_NAME: &str = "journal.jsonl";

/// The name of the journal of what systemd was asked for, which another thread writes.
pub const UNITS_NAME: &str = "units.jsonl";

/// Version of the records.
const SCHEMA: u32 = 2;

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Record {
    /// First line.
    Boot { schema: u32, boot_id: String },
    /// A value is about to be set, or was inherited from a thread that had it set.
    Set {
        subject: Subject,
        #[serde(flatten)]
        change: Change,
    },
    /// The value is not ours any more: put back, handed off, or its thread is gone.
    Forget {
        subject: Subject,
        lever: Lever,
        /// When, clock ticks since boot; 0 in what an older version wrote.
        #[serde(default)]
        at: u64,
    },
    /// Only where the file was written anew: a change that was forgotten before.
    Past(Past),
}

/// A change of a thread that was ours: a child may have inherited it before it went back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Past {
    /// The process.
    pub pid: u32,
    /// The thread; 0 where only the process is known.
    pub tid: u32,
    /// The change.
    #[serde(flatten)]
    pub change: Change,
    /// When it was forgotten or seen last, clock ticks since boot.
    pub until: u64,
}

/// What is to be put back: the value before downbeat, and the one that it set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Before.
    pub old: Value,
    /// Set by downbeat, or inherited from a thread where downbeat had set it.
    pub ours: Value,
    /// When it was set, clock ticks since boot: only a child that started later can have
    /// inherited it.
    pub since: u64,
}

impl Change {
    /// What goes back where `current` is there now: the old value, with the nice value that someone
    /// else set since. The kernel keeps one beside every policy, and ours named none where it is
    /// real time or idle.
    #[must_use]
    pub fn to_go_back(&self, current: &Value) -> Value {
        match (&self.old, &self.ours, current) {
            (Value::Sched(old), Value::Sched(ours), Value::Sched(current))
                if !ours.is_fair() && current.agrees_with(ours) && current.nice != ours.nice =>
            {
                Value::Sched(Sched { nice: current.nice, ..*old })
            }
            _ => self.old.clone(),
        }
    }

    /// What `back`, the value that went back, kept of someone else's, in words.
    #[must_use]
    pub fn kept(&self, back: &Value) -> Option<String> {
        match (&self.old, back) {
            (Value::Sched(old), Value::Sched(back)) if old.nice != back.nice => {
                Some(format!("nice stays {}, as someone set it after downbeat", back.nice))
            }
            _ => None,
        }
    }
}

/// Everything to be put back.
pub type Changes = HashMap<(Subject, Lever), Change>;

/// The journal of a running agent.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    boot_id: String,
    file: File,
    /// Records that `forget` made useless; when they outnumber the others by far, the file is
    /// written anew.
    dead: usize,
    live: usize,
    buffer: Vec<u8>,
    /// A write failed: the file is whole up to some line, and is to be written anew.
    torn: bool,
    /// Writes that failed, all in all.
    failures: u64,
}

/// Dead records that are let be, whatever the number of live ones.
const DEAD_LIMIT: usize = 4096;

impl Journal {
    /// Opens the journal in `run_dir`, and says what a predecessor left in it that is still to be
    /// put back. A file of this boot that is not understood is moved aside, to `journal.unread-1`
    /// or the next number that is free.
    ///
    /// # Errors
    /// When the file cannot be made or the boot's id cannot be read; the error names the file.
    pub fn open(run_dir: &Path, roots: &Roots) -> io::Result<(Self, Changes)> {
        Self::open_named(FILE_NAME, run_dir, roots)
    }

    /// The same under another name.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_named(name: &str, run_dir: &Path, roots: &Roots) -> io::Result<(Self, Changes)> {
        let path = run_dir.join(name);
        let boot_id = boot_id(roots)?;
        let changes = match read(&path, roots)? {
            Found::Nothing | Found::Stale => Changes::new(),
            Found::Changes(changes) => changes,
            Found::Unreadable { understood, .. } => {
                set_aside(&path)?;
                understood
            }
        };
        let file = write_anew(&path, &boot_id, &changes, &[])?;
        let live = changes.len();
        let (buffer, torn, failures) = (Vec::new(), false, 0);
        let journal = Self { path, boot_id, file, dead: 0, live, buffer, torn, failures };
        Ok((journal, changes))
    }

    /// Notes a change that is about to be made. Nothing is on disk before [`Self::commit`].
    pub fn set(&mut self, subject: &Subject, change: &Change) {
        // Nothing of it is left after a kill.
        if change.ours.lever().ends_with_the_agent() {
            return;
        }
        self.push(&Record::Set { subject: subject.clone(), change: change.clone() });
        self.live += 1;
    }

    /// Notes that a value is not ours any more.
    pub fn forget(&mut self, subject: &Subject, lever: Lever) {
        if lever.ends_with_the_agent() {
            return;
        }
        self.push(&Record::Forget { subject: subject.clone(), lever, at: boot_ticks() });
        self.live = self.live.saturating_sub(1);
        self.dead += 2;
    }

    /// Writes what was noted, with one system call. After a failure nothing is written until
    /// [`Self::compact`] has made the file whole again.
    ///
    /// # Errors
    /// As `write(2)`: a full file system, most of all. What was noted is lost.
    pub fn commit(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = if self.torn {
            Err(io::Error::other("an earlier write failed, and there is still no room"))
        } else {
            self.file.write_all(&self.buffer)
        };
        self.torn |= written.is_err();
        self.failures += u64::from(written.is_err());
        // Kept, it would grow for as long as the file system is full.
        self.buffer.clear();
        written
    }

    /// Writes that failed since it was opened.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// The next write finds no room.
    #[cfg(test)]
    pub(super) fn fill_up(&mut self) {
        self.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
    }

    /// Whether the file should be written anew from what is still to be put back.
    #[must_use]
    pub fn wants_compaction(&self) -> bool {
        self.torn || self.dead > DEAD_LIMIT.max(4 * self.live)
    }

    /// Writes the file anew, atomically, holding `changes` and `past` alone.
    ///
    /// # Errors
    /// As for [`Self::open`]; the old file stays in force.
    pub fn compact(&mut self, changes: &Changes, past: &[Past]) -> io::Result<()> {
        self.file = write_anew(&self.path, &self.boot_id, changes, past)?;
        self.buffer.clear();
        self.torn = false;
        self.dead = 0;
        self.live = changes.len();
        Ok(())
    }

    /// Removes the file: nothing is left to be put back.
    ///
    /// # Errors
    /// As `unlink(2)`.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }

    fn push(&mut self, record: &Record) {
        // Records are plain data with string keys: they always serialise.
        if serde_json::to_writer(&mut self.buffer, record).is_ok() {
            self.buffer.push(b'\n');
        }
    }
}

/// What a journal on disk says.
#[derive(Debug, PartialEq)]
pub enum Found {
    /// No journal.
    Nothing,
    /// Of another boot: its threads are long gone.
    Stale,
    /// To be put back. A last line cut short by a kill is left out: its change was never made.
    Changes(Changes),
    /// Not, or not wholly, understood, and perhaps of this boot: another version wrote it.
    Unreadable {
        /// What is not understood.
        reason: String,
        /// To be put back, as far as it is understood.
        understood: Changes,
    },
}

/// The first line, of whichever version.
#[derive(Deserialize)]
struct FirstLine {
    boot_id: String,
    #[serde(default)]
    schema: u32,
}

/// Reads a journal that a predecessor left.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read(path: &Path, roots: &Roots) -> io::Result<Found> {
    read_with_past(path, roots).map(|(found, _)| found)
}

/// The same, with what was ours before.
///
/// # Errors
/// As for [`read`].
pub fn read_with_past(path: &Path, roots: &Roots) -> io::Result<(Found, Vec<Past>)> {
    let alone = |found| Ok((found, Vec::new()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return alone(Found::Nothing),
        Err(error) => return Err(error),
    };
    let this_boot = boot_id(roots)?;
    let mut file = BufReader::new(file);
    let mut line = Vec::new();
    if file.read_until(b'\n', &mut line)? == 0 {
        return alone(Found::Changes(Changes::new()));
    }
    let unreadable = |reason| Found::Unreadable { reason, understood: Changes::new() };
    match serde_json::from_slice(&line) {
        Ok(FirstLine { boot_id, .. }) if boot_id != this_boot => return alone(Found::Stale),
        Ok(FirstLine { schema: SCHEMA, .. }) => {}
        Ok(FirstLine { schema, .. }) => {
            let reason = format!("it has schema {schema}, and this version reads {SCHEMA}");
            return alone(unreadable(reason));
        }
        // Without its first line the file may be of any boot.
        Err(error) => return alone(unreadable(format!("its first line names no boot: {error}"))),
    }
    let (mut changes, mut past) = (Changes::new(), Vec::new());
    let (mut unread, mut first) = (0_u64, None);
    for number in 2_u64.. {
        line.clear();
        file.read_until(b'\n', &mut line)?;
        // The end, or a line cut short.
        if line.last() != Some(&b'\n') {
            break;
        }
        match serde_json::from_slice(&line) {
            Ok(Record::Set { subject, change }) => {
                let (key, until) = ((subject.clone(), change.ours.lever()), change.since);
                let before = changes.insert(key, change);
                past.extend(before.and_then(|before| Past::of(&subject, before, until)));
            }
            Ok(Record::Forget { subject, lever, at }) => {
                let before = changes.remove(&(subject.clone(), lever));
                past.extend(before.and_then(|before| Past::of(&subject, before, at)));
            }
            Ok(Record::Past(before)) => past.push(before),
            Ok(Record::Boot { .. }) => {}
            Err(error) => {
                unread += 1;
                first.get_or_insert_with(|| format!("line {number}: {error}"));
            }
        }
    }
    let found = match first {
        None => Found::Changes(changes),
        Some(first) => Found::Unreadable {
            reason: format!("lines that are not understood: {unread}, the first {first}"),
            understood: changes,
        },
    };
    Ok((found, past))
}

impl Past {
    fn of(subject: &Subject, change: Change, until: u64) -> Option<Self> {
        subject.thread().map(|id| Self { pid: id.pid, tid: id.tid, change, until })
    }
}

/// Keeps a file that nobody here understands, under a name of its own.
fn set_aside(path: &Path) -> io::Result<()> {
    let mut names = (1..).map(|number: u32| path.with_extension(format!("unread-{number}")));
    match names.find(|name| !name.exists()) {
        Some(name) => fs::rename(path, name),
        None => Err(io::Error::other(format!("{}: no name is free", path.display()))),
    }
}

/// Leaves in a journal what could not be put back, and nothing else.
///
/// # Errors
/// When the file cannot be written or the boot's id cannot be read.
pub fn keep(path: &Path, left: &Changes, roots: &Roots) -> io::Result<()> {
    write_anew(path, &boot_id(roots)?, left, &[]).map(drop)
}

/// Writes a journal under a temporary name and moves it into place, so that a kill in between
/// leaves the old one whole.
fn write_anew(path: &Path, boot_id: &str, changes: &Changes, past: &[Past]) -> io::Result<File> {
    let mut text = serde_json::to_vec(&Record::Boot { schema: SCHEMA, boot_id: boot_id.into() })?;
    text.push(b'\n');
    let current = changes.iter().map(|((subject, _), change)| Record::Set {
        subject: subject.clone(),
        change: change.clone(),
    });
    for record in current.chain(past.iter().cloned().map(Record::Past)) {
        serde_json::to_writer(&mut text, &record)?;
        text.push(b'\n');
    }
    let new_path = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new_path)?;
    let moved = file.write_all(&text).and_then(|()| fs::rename(&new_path, path));
    if moved.is_err() {
        // Half a file would only take the room that the next attempt needs.
        let _ = fs::remove_file(&new_path);
    }
    moved.map(|()| file)
}

fn boot_id(roots: &Roots) -> io::Result<String> {
    let path = roots.proc.join("sys/kernel/random/boot_id");
    let text = fs::read_to_string(&path)
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests;
