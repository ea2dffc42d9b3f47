//! Blame: who had the CPU while a managed thread was ready.

use bytemuck::{Pod, Zeroable};

use crate::COMM_LEN;

/// Class slots.
const CLASSES: usize = crate::CLASS_SLOTS as usize;

/// The first places of each CPU are for classes, programs, kernel threads and interrupts, found by
/// a hash of what they are: a power of two.
pub const HASHED: usize = 32;

/// Places for culprits on each CPU.
pub const PLACES: usize = HASHED + 5;

/// What the verifier sees of a place's number: a comparison in its place is what that of 6.1 does not
/// always understand.
pub const PLACE_MASK: usize = 63;

/// The places after the hashed ones have a meaning of their own.
pub mod place {
    /// The idle thread.
    pub const IDLE: usize = super::HASHED;
    /// Timers.
    pub const TIMER: usize = super::HASHED + 1;
    /// The hypervisor.
    pub const STOLEN: usize = super::HASHED + 2;
    /// Those who found no place, and what nobody knows.
    pub const UNKNOWN: usize = super::HASHED + 3;
    /// Threads of the victim's own process.
    pub const WORKLOAD: usize = super::HASHED + 4;
}

/// A place whose culprit had the CPU last before so many nanoseconds may be given to another.
/// Whoever reads the sums must do so more often.
pub const KEEP_NS: u64 = 3_000_000_000;

/// Rows of sums on each CPU: one for each class slot, and one for threads without a class.
pub const VICTIMS: usize = crate::CLASS_SLOTS as usize + 1;

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

/// Whose a place is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Label {
    /// A [`CulpritKind`].
    pub kind: u32,
    /// As in [`Culprit`].
    pub id: u32,
    /// As in [`Culprit`]; of a class, the process as `u64` where that has several threads.
    pub comm: [u8; COMM_LEN],
    /// Since when; before, the place was another's, or free.
    pub since_ns: u64,
    /// When it last got the CPU.
    pub used_ns: u64,
}

/// Threads of one class that wait on a CPU, in one word, so that one instruction counts one in: how
/// many, times this, plus their credit. That is what the present occupant had before they waited, and
/// less what it had before they went to wait elsewhere: nanoseconds, below 0 or above.
///
/// The CPU itself takes out whom it runs and the credits that it has dealt with in a word of its own
/// ([`Cpu::settled`]), without a locked instruction; the difference of both is who waits now.
pub const ONE_WAITING: u64 = 1 << CREDIT_BITS;

/// Bits of the credit: 39 hours both ways.
const CREDIT_BITS: u32 = 48;

/// How many threads such a word counts.
#[must_use]
#[inline(always)]
pub const fn waiting_in(row: u64) -> u64 {
    row.wrapping_add(ONE_WAITING / 2) >> CREDIT_BITS
}

/// Their credit, nanoseconds as two's complement.
#[must_use]
#[inline(always)]
pub const fn credit_in(row: u64) -> u64 {
    ((row << (u64::BITS - CREDIT_BITS)) as i64 >> (u64::BITS - CREDIT_BITS)) as u64
}

/// How long threads of one class ran and waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ClassTimes {
    /// On this CPU, nanoseconds.
    pub ran_ns: u64,
    /// Before they ran on this CPU, nanoseconds.
    pub waited_ns: u64,
}

/// The bit of a row in [`Cpu::rows_waiting`].
#[must_use]
#[inline(always)]
pub const fn row_bit(row: usize) -> u64 {
    if row >= CLASSES - 1 { 1 << (CLASSES - 1) } else { 1 << row }
}

/// Slices kept of each CPU: a power of two.
pub const SLICES: usize = 512;

/// Processes of several threads that wait on a CPU are found by their id in so many places: a power
/// of two.
pub const OWN_PLACES: usize = 64;

/// Where a process is among them.
#[must_use]
#[inline(always)]
pub const fn own_place(process: u32) -> usize {
    (process.wrapping_mul(0x9e37_79b9) >> (u32::BITS - OWN_PLACES.trailing_zeros())) as usize
}

/// Who has one CPU, and for whom each of them had it: value of the map `CPUS`, whose index is the
/// CPU's number. Only that CPU writes it, but for what others write when threads begin to wait
/// there or move away. What these read and write is together, and in one cache line as long as there
/// are few classes: a line that two CPUs write costs more than all the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Cpu {
    /// Since when the present occupant has the CPU; 0 where that was not looked at.
    pub since_ns: u64,
    /// When the first of those who wait began to.
    pub begun_ns: u64,
    /// Rows with managed threads that wait here, as bits; the last two rows, of the last class and of
    /// threads without one, share the last bit. Nothing is summed while none does.
    pub rows_waiting: u64,
    /// Interrupts since the present occupant has the CPU and somebody waits, nanoseconds.
    pub interrupted_wait_ns: u32,
    /// Slices so far; the next goes to `slices[count % SLICES]`.
    pub slice_count: u32,
    /// The row of a thread that began to wait here lately: most often the only one. Whoever is about to
    /// read and write this line for a thread writes it first, so that the line comes once and not twice.
    pub late_row: u32,
    /// Switches that are looked at yet although nobody waits.
    pub awake: u32,
    /// Who began to wait, less who went away; see [`ONE_WAITING`].
    pub rows: [u64; VICTIMS],
    /// Changes when `rows` are set right, after which those counted before are not any more.
    pub generation: u32,
    /// Always 0.
    pub padding: [u32; 3],
    /// Processes of several threads that wait here: process << 32 | how many of its threads.
    pub own_waiting: [u64; OWN_PLACES],
    /// The occupant's `sum_exec_runtime` at `since_ns`.
    pub exec_ns: u64,
    /// Interrupts since then, nanoseconds.
    pub interrupted_ns: u64,
    /// 1 where somebody who does not wait here any more waited for the present occupant.
    pub owes: u64,
    /// The hard interrupt under way began; 0 for none, 1 where nobody wants to know when.
    pub hard_since_ns: u64,
    /// The soft interrupt under way began, as above.
    pub soft_since_ns: u64,
    /// Time of others within it.
    pub soft_nested_ns: u64,
    /// The timer's function under way began, as above.
    pub timer_since_ns: u64,
    /// How late that timer expired.
    pub timer_late_ns: u64,
    /// What of each row is dealt with, written by this CPU alone.
    pub settled: [u64; VICTIMS],
    /// Always 0.
    pub settled_padding: [u64; 7],
    /// By class slot.
    pub classes: [ClassTimes; CLASSES],
    /// Number of the soft interrupt under way.
    pub soft_vector: u32,
    /// Always 0.
    pub more_padding: u32,
    /// While a slice is blamed: rows that are not dealt with yet.
    pub rows_left: u64,
    /// Whose the hashed places are.
    pub labels: [Label; HASHED],
    /// How long threads of each class waited for each place on this CPU, nanoseconds.
    pub blame: [[u64; PLACES]; VICTIMS],
    /// Who had the CPU lately while somebody waited: place << 56 | nanoseconds.
    pub slices: [u64; SLICES],
    /// Always 0: records begin with a cache line.
    pub last_padding: [u64; 1],
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Culprit>() == 32);
    assert!(size_of::<Label>() == 40);
    assert!(offset_of!(Cpu, rows) == 40);
    assert!(offset_of!(Cpu, own_waiting) == 576);
    assert!(offset_of!(Cpu, exec_ns) == 576 + 8 * OWN_PLACES);
    assert!(offset_of!(Cpu, settled) == 640 + 8 * OWN_PLACES);
    assert!(offset_of!(Cpu, classes) == 640 + 8 * OWN_PLACES + 8 * VICTIMS + 56);
    assert!(offset_of!(Cpu, soft_vector) == offset_of!(Cpu, classes) + 16 * CLASSES);
    assert!(offset_of!(Cpu, classes).is_multiple_of(64));
    assert!(
        offset_of!(Cpu, slices)
            == offset_of!(Cpu, soft_vector) + 16 + 40 * HASHED + 8 * PLACES * VICTIMS
    );
    assert!(size_of::<Cpu>() == offset_of!(Cpu, slices) + 8 * SLICES + 8);
    assert!(size_of::<Cpu>().is_multiple_of(64));
    // A place is masked to fewer than `PLACE_MASK` + 1, and what is behind each table of places is
    // longer than what the last row lacks.
    assert!(PLACES <= PLACE_MASK + 1 && PLACE_MASK + 1 - PLACES <= SLICES);
    assert!(OWN_PLACES.is_power_of_two());
    assert!(SLICES.is_power_of_two());
    assert!(HASHED.is_power_of_two());
    assert!(PLACES <= 64);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_keeps_its_count_and_its_credit_apart() {
        let row = ONE_WAITING.wrapping_add(700);
        assert_eq!((waiting_in(row), credit_in(row)), (1, 700));
        // Two wait, one of them for longer, and one left for another CPU.
        let row = row.wrapping_add(ONE_WAITING).wrapping_sub(900).wrapping_sub(ONE_WAITING);
        assert_eq!((waiting_in(row), credit_in(row) as i64), (1, -200));
        // The CPU has dealt with the credit, then with the thread; others go on counting.
        let settled = credit_in(row);
        assert_eq!(row.wrapping_sub(settled), ONE_WAITING);
        let settled = settled.wrapping_add(ONE_WAITING);
        let row = row.wrapping_add(ONE_WAITING).wrapping_add(40);
        let now = row.wrapping_sub(settled);
        assert_eq!((waiting_in(now), credit_in(now)), (1, 40));
    }

    #[test]
    fn a_row_goes_on_where_its_word_is_full() {
        let (mut row, mut settled) = (u64::MAX - 50, u64::MAX - 50);
        for _ in 0..200_000 {
            row = row.wrapping_add(ONE_WAITING).wrapping_add(1_000_000_000);
            let now = row.wrapping_sub(settled);
            assert_eq!((waiting_in(now), credit_in(now)), (1, 1_000_000_000));
            settled = settled.wrapping_add(now);
        }
    }
}
