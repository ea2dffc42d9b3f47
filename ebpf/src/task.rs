//! Fields of the kernel's own structures, at offsets that the loader took from the kernel's types.

use aya_ebpf::Global;
use aya_ebpf::helpers::bpf_probe_read_kernel;

use crate::maps::{
    IN_IOWAIT_MASK, SIGNAL_LIVE, SIGNAL_THREADS, TASK_COMM, TASK_CPU, TASK_EXEC, TASK_FLAGS,
    TASK_GROUP_LEADER, TASK_IN_IOWAIT, TASK_MAJ_FLT, TASK_PID, TASK_REAL_PARENT, TASK_SIGNAL,
    TASK_STATE, TASK_TGID, TYPED,
};

/// `PF_KTHREAD`
const KERNEL_THREAD: u32 = 0x0020_0000;

/// A `struct task_struct *`.
#[derive(Clone, Copy)]
pub struct Task(*const u8);

impl Task {
    /// The program's argument of this value, which the tracepoint declares as a task.
    #[inline(always)]
    pub const fn new(argument: *const u8) -> Self {
        Self(argument)
    }

    /// The thread's id.
    #[inline(always)]
    pub fn tid(self) -> u32 {
        load(self.0, TASK_PID.load())
    }

    /// The process's id.
    #[inline(always)]
    pub fn tgid(self) -> u32 {
        load(self.0, TASK_TGID.load())
    }

    /// The state bits; 0 is runnable.
    #[inline(always)]
    pub fn state(self) -> u32 {
        load(self.0, TASK_STATE.load())
    }

    /// The process that made this one, or its heir.
    #[inline(always)]
    pub fn parent(self) -> Self {
        Self(load(self.0, TASK_REAL_PARENT.load()))
    }

    /// The CPU whose run queue the thread was on last.
    #[inline(always)]
    pub fn cpu(self) -> u32 {
        known(self.0, &TASK_CPU)
    }

    /// CPU time charged to the thread so far, nanoseconds; for one that runs, up to the last tick.
    #[inline(always)]
    pub fn exec_ns(self) -> u64 {
        known(self.0, &TASK_EXEC)
    }

    /// Major faults so far.
    #[inline(always)]
    pub fn major_faults(self) -> u64 {
        known(self.0, &TASK_MAJ_FLT)
    }

    /// Whether it sleeps for a disk.
    #[inline(always)]
    pub fn in_iowait(self) -> bool {
        let byte: u8 = known(self.0, &TASK_IN_IOWAIT);
        u32::from(byte) & IN_IOWAIT_MASK.load() != 0
    }

    /// Whether it is one of the kernel's own.
    #[inline(always)]
    pub fn is_kernel_thread(self) -> bool {
        let flags: u32 = known(self.0, &TASK_FLAGS);
        flags & KERNEL_THREAD != 0
    }

    /// Whether its process has more than one thread.
    #[inline(always)]
    pub fn has_siblings(self) -> bool {
        if TASK_SIGNAL.load() == 0 || SIGNAL_THREADS.load() == 0 {
            return false;
        }
        let signal: *const u8 = load(self.0, TASK_SIGNAL.load());
        let threads: u32 = load(signal, SIGNAL_THREADS.load());
        threads > 1
    }

    /// Whether no thread of its process lives, now that it ends itself; `false` where nobody knows.
    #[inline(always)]
    pub fn is_last(self) -> bool {
        if TASK_SIGNAL.load() == 0 || SIGNAL_LIVE.load() == 0 {
            return false;
        }
        let signal: *const u8 = load(self.0, TASK_SIGNAL.load());
        let live: u32 = load(signal, SIGNAL_LIVE.load());
        live == 0
    }

    /// Name of the process's main thread, which is what the program is called, as two words.
    #[inline(always)]
    pub fn program(self) -> [u64; 2] {
        if TASK_GROUP_LEADER.load() == 0 || TASK_COMM.load() == 0 {
            return [0; 2];
        }
        let leader: *const u8 = load(self.0, TASK_GROUP_LEADER.load());
        [load(leader, TASK_COMM.load()), load(leader, TASK_COMM.load() + 8)]
    }
}

/// A field that not every kernel has; 0 there.
#[inline(always)]
fn known<T: Copy + Default>(base: *const u8, offset: &Global<u32>) -> T {
    // The verifier knows the global's value and drops the branch that is not taken.
    if offset.load() == 0 { T::default() } else { load(base, offset.load()) }
}

/// One field. A typed pointer is read by a plain load: the verifier proves that the offset is a
/// field of this size.
#[inline(always)]
pub fn load<T: Copy>(base: *const u8, offset: u32) -> T {
    // SAFETY: a BTF pointer may be read at any field; a bad offset is refused at load, and a
    // fault in the kernel reads zeros.
    unsafe {
        let field = base.add(offset as usize).cast::<T>();
        if TYPED.load() != 0 {
            field.read_volatile()
        } else {
            bpf_probe_read_kernel(field).unwrap_or_else(|_| core::mem::zeroed())
        }
    }
}
