//! Sets of CPUs, as the kernel writes them in sysfs (`0-3,6`).

/// CPUs to run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CpuList {
    /// `"all"`: every CPU that the host has online.
    All,
    /// By number, ascending, without repeats, not empty.
    Only(Vec<u32>),
}

/// Why a list of CPUs was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuListError {
    /// Not a number, a range or a comma between them.
    #[error("`{0}` is neither a CPU number nor a range like 0-3")]
    Malformed(String),
}
