//! Events on the ring.

use bytemuck::{Pod, Zeroable};

/// Bytes of a thread's name, its closing zero included (`TASK_COMM_LEN`).
pub const COMM_LEN: usize = 16;

/// What an [`Event`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A process now runs another program. `tid` is its thread id from now on and equals `tgid`;
    /// `other_tid` the thread id that its caller had before (another one where a thread that was
    /// not the leader called exec); `other_tgid` the parent process.
    Exec = 1,
    /// A managed thread, or a thread of a process whose main thread is managed, made a thread or
    /// a process. `tid` and `tgid` are the child's, `other_tid` and `other_tgid` its creator's.
    Fork = 2,
    /// A managed thread ends. The other ids are 0.
    Exit = 3,
    /// A managed thread has another name, in `comm`. The other ids are 0.
    Rename = 4,
    /// A job of a followed thread missed its deadline: the record is a [`crate::Miss`].
    Miss = 5,
}

impl EventKind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::Exec,
            2 => Self::Fork,
            3 => Self::Exit,
            4 => Self::Rename,
            5 => Self::Miss,
            _ => return None,
        })
    }
}

/// One record of the ring. The ids are those of the kernel's first pid namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Event {
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub time_ns: u64,
    /// An [`EventKind`].
    pub kind: u32,
    /// Thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// The other thread.
    pub other_tid: u32,
    /// The other process.
    pub other_tgid: u32,
    /// 1 where the kernel put a new thread into its creator's class by itself.
    pub inherited: u32,
    /// New name of [`EventKind::Rename`], closed by a zero; else zeros.
    pub comm: [u8; COMM_LEN],
}

const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Event>() == 48);
    assert!(align_of::<Event>() == 8);
    assert!(offset_of!(Event, kind) == 8);
    assert!(offset_of!(Event, inherited) == 28);
    assert!(offset_of!(Event, comm) == 32);
};
