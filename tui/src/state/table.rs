//! Which processes the table shows, in which order, and where the cursor is.

use std::cmp::Ordering;
use std::collections::HashMap;

use downbeat_api::{Process, Snapshot};

use crate::report::processes::column;

/// What names a process beyond doubt: its id and its start time.
pub type Identity = (u32, u64);

/// What the table is sorted by; each is one of its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortKey {
    /// Process id, ascending.
    Pid,
    /// Owner, ascending.
    User,
    /// Class in policy order and then CPU use; the processes without a class last.
    Class,
    /// Scheduling, in words.
    Sched,
    /// Nice value, ascending.
    Nice,
    /// CPU use, descending.
    Cpu,
    /// Resident memory, descending.
    Rss,
    /// GPU memory, descending.
    Gpu,
    /// Threads, descending.
    Threads,
    /// State letter.
    State,
    /// Command line, ascending.
    Command,
}

impl SortKey {
    /// All, in the order of the columns.
    pub const ALL: [Self; 11] = [
        Self::Pid,
        Self::User,
        Self::Class,
        Self::Sched,
        Self::Nice,
        Self::Cpu,
        Self::Rss,
        Self::Gpu,
        Self::Threads,
        Self::State,
        Self::Command,
    ];

    /// Its column in [`crate::report::processes::COLUMNS`].
    #[must_use]
    pub fn column(self) -> usize {
        match self {
            Self::Pid => column::PID,
            Self::User => column::USER,
            Self::Class => column::CLASS,
            Self::Sched => column::SCHED,
            Self::Nice => column::NICE,
            Self::Cpu => column::CPU,
            Self::Rss => column::RSS,
            Self::Gpu => column::GPU,
            Self::Threads => column::THREADS,
            Self::State => column::STATE,
            Self::Command => column::COMMAND,
        }
    }

    /// Whether its first row is the smallest one, before it is inverted.
    #[must_use]
    pub fn ascends(self) -> bool {
        !matches!(self, Self::Cpu | Self::Rss | Self::Gpu | Self::Threads)
    }

    fn compare(self, a: &Process, b: &Process, ranks: &HashMap<&str, usize>) -> Ordering {
        let rank = |p: &Process| {
            let class = p.class.as_deref();
            class.map_or(usize::MAX, |c| ranks.get(c).copied().unwrap_or(usize::MAX - 1))
        };
        match self {
            Self::Pid => a.pid.cmp(&b.pid),
            Self::User => a.user.cmp(&b.user),
            Self::Class => rank(a).cmp(&rank(b)),
            Self::Sched => a.sched.cmp(&b.sched),
            Self::Nice => a.nice.cmp(&b.nice),
            Self::Cpu => b.cpu.total_cmp(&a.cpu),
            Self::Rss => b.rss.cmp(&a.rss),
            Self::Gpu => b.gpu_memory.cmp(&a.gpu_memory),
            Self::Threads => b.threads.cmp(&a.threads),
            Self::State => a.state.cmp(&b.state),
            Self::Command => a.command.cmp(&b.command),
        }
    }
}

/// The process table's own state.
#[derive(Clone, Debug)]
pub struct Table {
    /// What it is sorted by.
    pub sort: SortKey,
    /// The other way round.
    pub inverted: bool,
    /// Only rows that contain this are shown; empty: all.
    pub filter: String,
    /// Indices into the snapshot's processes, in the order shown.
    pub rows: Vec<usize>,
    /// The cursor's row.
    pub cursor: usize,
    /// First row on the screen.
    pub offset: usize,
    /// The process that the cursor follows; absent while it rests on the first row.
    pub followed: Option<Identity>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            sort: SortKey::Class,
            inverted: false,
            filter: String::new(),
            rows: Vec::new(),
            cursor: 0,
            offset: 0,
            followed: None,
        }
    }
}

impl Table {
    /// Works out the rows anew, and keeps the cursor on its process.
    pub fn refresh(&mut self, snapshot: &Snapshot) {
        let processes = &snapshot.processes;
        let filter = self.filter.to_lowercase();
        let ranks: HashMap<&str, usize> =
            snapshot.classes.iter().enumerate().map(|(i, c)| (c.name.as_str(), i)).collect();
        self.rows = (0..processes.len()).filter(|&i| matches(&processes[i], &filter)).collect();
        self.rows.sort_by(|&a, &b| {
            let (a, b) = (&processes[a], &processes[b]);
            let order = self.sort.compare(a, b, &ranks);
            let order = if self.inverted { order.reverse() } else { order };
            order.then_with(|| b.cpu.total_cmp(&a.cpu)).then(a.pid.cmp(&b.pid))
        });
        let place = self
            .followed
            .and_then(|id| self.rows.iter().position(|&row| identity(&processes[row]) == id));
        match place {
            Some(place) => self.cursor = place,
            // It has ended or was filtered out: the cursor stays where it was.
            None => {
                self.cursor = self.cursor.min(self.rows.len().saturating_sub(1));
                self.followed =
                    if self.cursor == 0 { None } else { self.under_cursor(snapshot).map(identity) };
            }
        }
    }

    /// The process under the cursor.
    #[must_use]
    pub fn under_cursor<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Process> {
        self.rows.get(self.cursor).and_then(|&row| snapshot.processes.get(row))
    }

    /// Puts the cursor on a row, or on the last one.
    pub fn go_to(&mut self, row: usize, snapshot: &Snapshot) {
        self.cursor = row.min(self.rows.len().saturating_sub(1));
        self.followed =
            if self.cursor == 0 { None } else { self.under_cursor(snapshot).map(identity) };
    }

    /// Puts the cursor on the next row after `from` (or on it) that contains `text`, going round.
    /// Returns whether there is one.
    pub fn find(&mut self, text: &str, from: usize, snapshot: &Snapshot) -> bool {
        let text = text.to_lowercase();
        let n = self.rows.len();
        let found = (0..n)
            .map(|i| (from + i) % n)
            .find(|&row| snapshot.processes.get(self.rows[row]).is_some_and(|p| matches(p, &text)));
        if let Some(row) = found {
            self.go_to(row, snapshot);
        }
        found.is_some()
    }

    /// Moves the first row on the screen so that the cursor is among `height` rows.
    pub fn scroll_into(&mut self, height: usize) {
        let last_offset = self.rows.len().saturating_sub(height);
        let lowest = (self.cursor + 1).saturating_sub(height.max(1));
        self.offset = self.offset.clamp(lowest, self.cursor.max(lowest)).min(last_offset);
    }
}

fn identity(process: &Process) -> Identity {
    (process.pid, process.start_time)
}

/// `text` is in lower case.
fn matches(process: &Process, text: &str) -> bool {
    if text.is_empty() {
        return true;
    }
    let class = process.class.as_deref().unwrap_or_default();
    let pid = process.pid.to_string();
    [&process.command, &process.name, &process.user, class, &pid]
        .into_iter()
        .any(|field| field.to_lowercase().contains(text))
}
