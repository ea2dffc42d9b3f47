//! Fields of the kernel's `task_struct`, at offsets that the loader took from BTF.

use aya_ebpf::programs::BtfTracePointContext;

use crate::maps::{TASK_PID, TASK_REAL_PARENT, TASK_STATE, TASK_TGID};

/// A `struct task_struct *` that the verifier knows as such.
#[derive(Clone, Copy)]
pub struct Task(*const u8);

impl Task {
    /// The program's `n`th argument, which the tracepoint declares as a task.
    #[inline(always)]
    pub fn argument(ctx: &BtfTracePointContext, n: usize) -> Self {
        Self(ctx.arg(n))
    }

    /// The thread's id.
    #[inline(always)]
    pub fn tid(self) -> u32 {
        self.load(TASK_PID.load())
    }

    /// The process's id.
    #[inline(always)]
    pub fn tgid(self) -> u32 {
        self.load(TASK_TGID.load())
    }

    /// The state bits; 0 is runnable.
    #[inline(always)]
    pub fn state(self) -> u32 {
        self.load(TASK_STATE.load())
    }

    /// The process that made this one, or its heir.
    #[inline(always)]
    pub fn parent(self) -> Self {
        Self(self.load(TASK_REAL_PARENT.load()))
    }

    /// One direct load: the verifier proves that the offset is a field of this size.
    #[inline(always)]
    fn load<T: Copy>(self, offset: u32) -> T {
        // SAFETY: a BTF pointer may be read at any field; a bad offset is refused at load, and
        // a fault in the kernel reads zeros.
        unsafe { self.0.add(offset as usize).cast::<T>().read_volatile() }
    }
}
