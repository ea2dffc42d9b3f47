//! Blame: who had the CPU while a managed thread was ready.

use bytemuck::{Pod, Zeroable};

use crate::COMM_LEN;

/// Occupants kept of each CPU: a power of two. At 20 000 switches a second they reach back 12 ms.
pub const OCCUPANTS: usize = 256;

/// Interrupts kept of each CPU: a power of two.
pub const SPANS: usize = 256;

/// (victim, culprit) pairs that the table of blame holds.
pub const BLAME: u32 = 4_096;

/// What a culprit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CulpritKind {
    /// A place that is free.
    None = 0,
    /// A class; `id` is its slot.
    Class = 1,
    /// A program without a class, by its main thread's name.
    Program = 2,
    /// Threads of the victim's own process.
    Workload = 3,
    /// A kernel thread, by its name.
    Kernel = 4,
    /// A hard interrupt; `id` is its number.
    HardInterrupt = 5,
    /// A soft interrupt; `id` is its vector.
    SoftInterrupt = 6,
    /// Timers.
    Timer = 7,
    /// The idle thread: the CPU was waking up, or kept idle.
    Idle = 8,
    /// The hypervisor.
    Stolen = 9,
    /// Who it was is not known any more.
    Unknown = 10,
}

impl CulpritKind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::Class,
            2 => Self::Program,
            3 => Self::Workload,
            4 => Self::Kernel,
            5 => Self::HardInterrupt,
            6 => Self::SoftInterrupt,
            7 => Self::Timer,
            8 => Self::Idle,
            9 => Self::Stolen,
            10 => Self::Unknown,
            _ => return None,
        })
    }
}

/// A culprit and how long it had the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Culprit {
    /// A [`CulpritKind`].
    pub kind: u32,
    /// Slot, number or vector, as the kind says; else 0.
    pub id: u32,
    /// Name of a program or kernel thread, closed by a zero; else zeros.
    pub comm: [u8; COMM_LEN],
    /// Nanoseconds.
    pub ns: u64,
}

/// Key of the map `BLAME`; its value is a sum of nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct BlameKey {
    /// Slot of the class that waited, or [`crate::NO_CLASS`].
    pub victim: u32,
    /// A [`CulpritKind`].
    pub kind: u32,
    /// As in [`Culprit`].
    pub id: u32,
    /// Always 0.
    pub padding: u32,
    /// As in [`Culprit`].
    pub comm: [u8; COMM_LEN],
}

/// Who has a CPU from one switch to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Occupant {
    /// Since when; 0 in places that were never used.
    pub start_ns: u64,
    /// `sum_exec_runtime` at that moment.
    pub exec_ns: u64,
    /// Process; 0 for the idle thread.
    pub tgid: u32,
    /// A [`CulpritKind`]: class, program, kernel or idle.
    pub kind: u32,
    /// As in [`Culprit`].
    pub id: u32,
    /// How much of its time it was not charged for, nanoseconds: the hypervisor's, or (where the
    /// kernel accounts for interrupts apart) theirs. Known when it has left.
    pub lost_ns: u32,
    /// As in [`Culprit`].
    pub comm: [u8; COMM_LEN],
}

/// An interrupt, from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Span {
    /// When it ended.
    pub end_ns: u64,
    /// How long it took, without others within it.
    pub ns: u32,
    /// A [`CulpritKind`] in the top 8 bits, the id below.
    pub what: u32,
}

/// Who had one CPU lately: value of the map `CPUS`, whose index is the CPU's number. Only that
/// CPU writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Cpu {
    /// The hard interrupt under way began; 0 for none.
    pub hard_since_ns: u64,
    /// The soft interrupt under way began; 0 for none.
    pub soft_since_ns: u64,
    /// Time of others within it.
    pub soft_nested_ns: u64,
    /// The timer's function under way began; 0 for none.
    pub timer_since_ns: u64,
    /// How late that timer expired.
    pub timer_late_ns: u64,
    /// Number of the soft interrupt under way.
    pub soft_vector: u32,
    /// Interrupts so far; the latest is at `(spans_seen - 1) % SPANS`.
    pub spans_seen: u32,
    /// Switches so far; the present occupant is at `(switches - 1) % OCCUPANTS`.
    pub switches: u64,
    /// Occupants.
    pub occupants: [Occupant; OCCUPANTS],
    /// Interrupts.
    pub spans: [Span; SPANS],
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Culprit>() == 32);
    assert!(size_of::<BlameKey>() == 32);
    assert!(size_of::<Occupant>() == 48);
    assert!(size_of::<Span>() == 16);
    assert!(offset_of!(Cpu, occupants) == 56);
    assert!(size_of::<Cpu>() == 56 + 48 * OCCUPANTS + 16 * SPANS);
    assert!(OCCUPANTS.is_power_of_two() && SPANS.is_power_of_two());
};
