//! The ring.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_probe_read_kernel_str};
use aya_ebpf::maps::ring_buf::RingBufEntry;
use downbeat_abi::{COMM_LEN, Counter, Event, EventKind};

use crate::maps::{EVENTS, RING_WAKE_BYTES, count};

/// When the reader should learn of an event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// At once.
    Now,
    /// With the next one that is urgent, at its next look, or when the ring fills up.
    Later,
}

/// An event that has happened now, without its ids.
#[inline(always)]
pub fn new(kind: EventKind) -> Event {
    Event {
        // SAFETY: a helper without conditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        kind: kind as u32,
        tid: 0,
        tgid: 0,
        other_tid: 0,
        other_tgid: 0,
        inherited: 0,
        comm: [0; COMM_LEN],
    }
}

/// Puts an event into the ring, or counts it as lost.
#[inline(always)]
pub fn send(event: &Event, wake: Wake) {
    let Some(mut record) = reserve() else { return };
    record.write(*event);
    record.submit(flags(wake));
}

/// The same with the name at `name` in kernel memory.
#[inline(always)]
pub fn send_named(event: &Event, name: *const u8) {
    let Some(mut record) = reserve() else { return };
    let slot = record.write(*event);
    // SAFETY: the destination is in the record, and the helper writes no more than its length;
    // it leaves zeros where `name` cannot be read.
    unsafe {
        bpf_probe_read_kernel_str((&raw mut slot.comm).cast(), COMM_LEN as u32, name.cast());
    }
    record.submit(flags(Wake::Now));
}

#[inline(always)]
fn reserve() -> Option<RingBufEntry<Event>> {
    let record = EVENTS.reserve::<Event>(0);
    if record.is_none() {
        count(Counter::DroppedEvents);
    }
    record
}

/// The kernel's own adaptive wake-up fires only for a reader that has caught up, which one that
/// was not woken for the last event has not: so each event says what it wants.
#[inline(always)]
fn flags(wake: Wake) -> u64 {
    let urgent = wake == Wake::Now
        || EVENTS.query(BPF_RB_AVAIL_DATA.into()) >= u64::from(RING_WAKE_BYTES.load());
    (if urgent { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }).into()
}
