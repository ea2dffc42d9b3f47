//! Whose values a process was born with.

/// Processes of which it can be known at the same time: entries of the map `LINEAGE`.
pub const LINEAGE_PROCESSES: u32 = 16_384;

/// Where what a process inherited comes from: value of the map `LINEAGE`, whose key is the process's
/// id, as one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The nearest ancestor that the agent has looked at; the process itself where it has looked at
    /// that.
    pub pid: u32,
    /// The thread of it that made this process or an ancestor of it; 0 for the ancestor itself.
    pub tid: u32,
}

impl Origin {
    /// As the map has it.
    #[must_use]
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        (self.tid as u64) << 32 | self.pid as u64
    }

    /// From the map's word.
    #[must_use]
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self { pid: word as u32, tid: (word >> 32) as u32 }
    }

    /// What a child has that the thread `creator` made, in a process that has this.
    #[must_use]
    #[inline(always)]
    pub const fn passed_on_by(self, creator: u32) -> Self {
        if self.tid == 0 { Self { pid: self.pid, tid: creator } } else { self }
    }
}
