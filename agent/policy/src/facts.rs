//! What a rule can look at.

/// One process as the rules see it. What could not be read is empty and matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Path of the executable, without the ` (deleted)` that the kernel may add.
    pub exe: Option<String>,
    /// The main thread's name (at most 15 bytes).
    pub comm: String,
    /// Arguments joined by single spaces.
    pub cmdline: String,
    /// Real uid.
    pub uid: u32,
    /// Its user's name, where it has one.
    pub user: Option<String>,
    /// Path of its cgroup: v2's where it has one, else the v1 hierarchy named by systemd, else
    /// that of the cpu controller.
    pub cgroup: Option<String>,
    /// Its parent, if known.
    pub parent: Option<ParentFacts>,
}

/// A process's parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParentFacts {
    /// Path of the executable.
    pub exe: Option<String>,
    /// The main thread's name.
    pub comm: String,
}
