//! The maps and the globals that the loader fills; names as in `downbeat_abi::{map, global}`.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use downbeat_abi::{CLASS_SLOTS, Counter, Cpu, JOBS as JOB_ENTRIES, Job, Thread, Waits};

use crate::atomic;

/// Bitmap of managed pids. Its size here is nominal: the loader sizes it to the host's
/// `pid_max`. The agent maps it and sets bits with atomic operations of its own.
#[map]
pub static GATE: Array<u64> = Array::with_max_entries(32_768 / u64::BITS, BPF_F_MMAPABLE);

/// Marks of managed threads; [`crate::gate`] tells what they are for. 2 KiB, which stay in the cache: with
/// 8 KiB a wake cost 8 ns more. Beside a hundred managed threads 0.6 % of the others have the mark of one.
#[map]
pub static MARKS: Array<u64> = Array::with_max_entries((1 << MARK_BITS) / u64::BITS, 0);

/// log2 of the marks.
pub const MARK_BITS: u32 = 14;

/// Managed threads; [`crate::gate`] knows where. The loader sizes it.
#[map]
pub static THREADS: Array<Thread> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Waits by class slot and part, read by the agent through a mapping. The loader sizes it to the CPUs.
#[map]
pub static WAITS: Array<Waits> = Array::with_max_entries(CLASS_SLOTS, BPF_F_MMAPABLE);

/// Jobs of the threads that have a place here.
#[map]
static JOBS: Array<Job> = Array::with_max_entries(JOB_ENTRIES, BPF_F_MMAPABLE);

/// Who had each CPU lately. The loader sizes it to the CPUs that the kernel may ever have.
#[map]
pub static CPUS: Array<Cpu> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Losses by [`Counter`].
#[map]
static COUNTERS: Array<u64> = Array::with_max_entries(downbeat_abi::COUNTERS, BPF_F_MMAPABLE);

/// Ring of events; the loader may give it another size.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

#[unsafe(no_mangle)]
pub static TASK_PID: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static TASK_TGID: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static TASK_REAL_PARENT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static TASK_STATE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static SWITCH_HAS_STATE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static RING_WAKE_BYTES: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static THREAD_SHIFT: Global<u32> = Global::new(32);
#[unsafe(no_mangle)]
pub static LAST_THREAD: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static LAST_WAIT_PART: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static WAIT_PARTS_SHARED: Global<u32> = Global::new(1);
#[unsafe(no_mangle)]
pub static BLAME_ON: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static JOBS_ON: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static TASK_SIGNAL: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static SIGNAL_THREADS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static SIGNAL_LIVE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static TASK_COMM: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static TASK_FLAGS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static TASK_GROUP_LEADER: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static TASK_CPU: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static TASK_EXEC: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static TASK_MAJ_FLT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static TASK_IN_IOWAIT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static IN_IOWAIT_MASK: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static TIMER_EXPIRES: Global<u32> = Global::new(0);

/// The jobs of a thread that has place `index`.
#[inline(always)]
pub fn job(index: u16) -> Option<*mut Job> {
    if JOBS_ON.load() != 0 { JOBS.get_ptr_mut(index.into()) } else { None }
}

/// Counts one loss.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(word) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the map's own pointer, 8-byte aligned.
        unsafe { atomic::add(word, 1) };
    }
}
