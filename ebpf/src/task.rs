//! Fields of the kernel's own structures, at offsets that the loader took from the kernel's types.

use core::arch::asm;
use core::mem::MaybeUninit;

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

use crate::maps::{
    IN_IOWAIT_MASK, SIGNAL_LIVE, SIGNAL_THREADS, TASK_COMM, TASK_CPU, TASK_EXEC, TASK_FLAGS,
    TASK_GROUP_LEADER, TASK_IN_IOWAIT, TASK_MAJ_FLT, TASK_PID, TASK_REAL_PARENT, TASK_SIGNAL,
    TASK_STATE, TASK_TGID,
};

/// `PF_KTHREAD`
const KERNEL_THREAD: u32 = 0x0020_0000;

/// The address of a structure of the kernel.
#[derive(Clone, Copy)]
pub struct Structure {
    at: *const u8,
    /// Whether the verifier knows its type: then a field is read by a plain load, and the verifier
    /// proves that the offset is a field of this size.
    typed: bool,
}

impl Structure {
    /// An argument of a tracepoint that declares it as one.
    #[inline(always)]
    pub const fn new(at: *const u8, typed: bool) -> Self {
        Self { at, typed }
    }

    /// One field.
    #[inline(always)]
    fn load<T: Copy>(self, offset: u32) -> T {
        // SAFETY: a BTF pointer may be read at any field; a bad offset is refused at load, and a
        // fault in the kernel reads zeros.
        unsafe {
            let field = self.at.add(offset as usize).cast::<T>();
            // LLVM knows which, or the verifier where it is an argument, and drops the other.
            if self.typed {
                field.read_volatile()
            } else {
                // Zeros where the read faults, so nothing is asked of its result: each question would
                // double what the verifier follows.
                let mut value = MaybeUninit::<T>::uninit();
                bpf_probe_read_kernel(
                    value.as_mut_ptr().cast(),
                    size_of::<T>() as u32,
                    field.cast(),
                );
                value.assume_init()
            }
        }
    }

    /// A field that not every kernel has; 0 there.
    #[inline(always)]
    pub fn known<T: Copy + Default>(self, offset: &Global<u32>) -> T {
        let offset = offset.load();
        // The verifier knows the global's value and drops the branch that is not taken.
        if offset == 0 { T::default() } else { self.load(offset) }
    }

    /// A number that no other structure has while the programs are loaded: where it is, or how far from a
    /// fixed place. The verifier allows no other arithmetic with a pointer whose type it knows.
    #[inline(always)]
    fn number(self) -> u64 {
        let mut number = self.at as u64;
        if self.typed {
            let fixed = &raw const TASK_PID;
            // SAFETY: arithmetic on registers alone.
            unsafe {
                asm!("{0} -= {1}", inout(reg) number, in(reg) fixed, options(pure, nomem, nostack));
            }
        }
        number
    }

    /// The structure that a field points to.
    #[inline(always)]
    fn follow(self, offset: u32) -> Self {
        Self { at: self.load(offset), ..self }
    }
}

/// A `struct task_struct`.
#[derive(Clone, Copy)]
pub struct Task(pub Structure);

impl Task {
    /// The thread's id.
    #[inline(always)]
    pub fn tid(self) -> u32 {
        self.0.load(TASK_PID.load())
    }

    /// Its mark: a number below 2^`bits` by where the kernel has its record, so that nothing of that is
    /// read. Others may have the same.
    #[inline(always)]
    pub fn mark(self, bits: u32) -> u32 {
        (self.0.number().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - bits)) as u32
    }

    /// The process's id.
    #[inline(always)]
    pub fn tgid(self) -> u32 {
        self.0.load(TASK_TGID.load())
    }

    /// The state bits; 0 is runnable.
    #[inline(always)]
    pub fn state(self) -> u32 {
        self.0.load(TASK_STATE.load())
    }

    /// The process that made this one, or its heir.
    #[inline(always)]
    pub fn parent(self) -> Self {
        Self(self.0.follow(TASK_REAL_PARENT.load()))
    }

    /// The CPU whose run queue the thread was on last.
    #[inline(always)]
    pub fn cpu(self) -> u32 {
        self.0.known(&TASK_CPU)
    }

    /// CPU time charged to the thread so far, nanoseconds; for one that runs, up to the last tick.
    #[inline(always)]
    pub fn exec_ns(self) -> u64 {
        self.0.known(&TASK_EXEC)
    }

    /// Major faults so far.
    #[inline(always)]
    pub fn major_faults(self) -> u64 {
        self.0.known(&TASK_MAJ_FLT)
    }

    /// Whether it sleeps for a disk.
    #[inline(always)]
    pub fn in_iowait(self) -> bool {
        let byte: u8 = self.0.known(&TASK_IN_IOWAIT);
        u32::from(byte) & IN_IOWAIT_MASK.load() != 0
    }

    /// Whether it is one of the kernel's own.
    #[inline(always)]
    pub fn is_kernel_thread(self) -> bool {
        let flags: u32 = self.0.known(&TASK_FLAGS);
        flags & KERNEL_THREAD != 0
    }

    /// Whether its process has more than one thread.
    #[inline(always)]
    pub fn has_siblings(self) -> bool {
        if TASK_SIGNAL.load() == 0 || SIGNAL_THREADS.load() == 0 {
            return false;
        }
        let threads: u32 = self.0.follow(TASK_SIGNAL.load()).load(SIGNAL_THREADS.load());
        threads > 1
    }

    /// Whether no thread of its process lives, now that it ends itself; `false` where nobody knows.
    #[inline(always)]
    pub fn is_last(self) -> bool {
        if TASK_SIGNAL.load() == 0 || SIGNAL_LIVE.load() == 0 {
            return false;
        }
        let live: u32 = self.0.follow(TASK_SIGNAL.load()).load(SIGNAL_LIVE.load());
        live == 0
    }

    /// Name of the process's main thread, which is what the program is called, as two words.
    #[inline(always)]
    pub fn program(self) -> [u64; 2] {
        if TASK_GROUP_LEADER.load() == 0 || TASK_COMM.load() == 0 {
            return [0; 2];
        }
        let leader = self.0.follow(TASK_GROUP_LEADER.load());
        [leader.load(TASK_COMM.load()), leader.load(TASK_COMM.load() + 8)]
    }
}
