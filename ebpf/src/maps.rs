//! The maps and the globals that the loader fills; names as in `downbeat_abi::{map, global}`.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, RingBuf};
use downbeat_abi::{CLASS_SLOTS, Counter, Thread, Waits};

use crate::atomic;

/// Bitmap of managed pids. Its size here is nominal: the loader sizes it to the host's
/// `pid_max`. The agent maps it and sets bits with atomic operations of its own.
#[map]
pub static GATE: Array<u64> = Array::with_max_entries(32_768 / u64::BITS, BPF_F_MMAPABLE);

/// Managed threads by thread id. Preallocated, so that nothing is allocated while scheduling.
#[map]
pub static THREADS: HashMap<u32, Thread> = HashMap::with_max_entries(16_384, 0);

/// Waits by class slot, read by the agent through a mapping.
#[map]
pub static WAITS: Array<Waits> = Array::with_max_entries(CLASS_SLOTS, BPF_F_MMAPABLE);

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

/// Counts one loss.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(word) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the map's own pointer, 8-byte aligned.
        unsafe { atomic::add(word, 1) };
    }
}
