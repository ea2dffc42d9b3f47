//! Interrupts and timers: what they take from whoever runs, and which wake-ups they cause.

use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel};
use downbeat_abi::{Cpu, CulpritKind, place};

use crate::jobs::believable;
use crate::maps::TIMER_EXPIRES;
use crate::occupancy;
use crate::span::span;
use crate::task::Structure;

/// An interrupt under way, when nobody wants to know how long it takes.
const UNTIMED: u64 = 1;

/// When an interrupt begins, for its field of the CPU's record.
#[inline(always)]
unsafe fn begin(cpu: *const Cpu) -> u64 {
    // SAFETY: the map's own pointer.
    if unsafe { occupancy::is_looked_at(cpu) } != 0 { now() } else { UNTIMED }
}

/// A hard interrupt's handler begins.
#[inline(always)]
pub fn hard_begins() {
    let Some(cpu) = occupancy::here() else { return };
    // SAFETY: the map's own pointer.
    unsafe { (*cpu).hard_since_ns = begin(cpu) };
}

/// The handler of interrupt `number` is done.
#[inline(always)]
pub fn hard_ends(number: u32) {
    let Some(cpu) = occupancy::here() else { return };
    // SAFETY: the map's own pointer.
    unsafe {
        let since = (*cpu).hard_since_ns;
        (*cpu).hard_since_ns = 0;
        if since > UNTIMED {
            let now = now();
            let kind = CulpritKind::HardInterrupt;
            let place = occupancy::place_of_interrupt(cpu, now, kind, number);
            within(cpu, since, now, place);
        }
    }
}

/// A soft interrupt begins.
#[inline(always)]
pub fn soft_begins(vector: u32) {
    let Some(cpu) = occupancy::here() else { return };
    // SAFETY: the map's own pointer.
    unsafe {
        (*cpu).soft_vector = vector;
        (*cpu).soft_nested_ns = 0;
        (*cpu).soft_since_ns = begin(cpu);
    }
}

/// A soft interrupt is done.
#[inline(always)]
pub fn soft_ends(vector: u32) {
    let Some(cpu) = occupancy::here() else { return };
    // SAFETY: the map's own pointer.
    unsafe {
        let since = (*cpu).soft_since_ns;
        (*cpu).soft_since_ns = 0;
        if since <= UNTIMED {
            return;
        }
        let now = now();
        let ns = span((*cpu).soft_nested_ns, span(since, now));
        let place = occupancy::place_of_interrupt(cpu, now, CulpritKind::SoftInterrupt, vector);
        occupancy::interrupted(cpu, ns, place);
    }
}

/// A high-resolution timer's function begins. `expired` points to the time, on the timer's own
/// clock, at which it was found to have expired.
#[inline(always)]
pub fn timer_begins(timer: Structure, expired: *const i64) {
    let Some(cpu) = occupancy::here() else { return };
    // SAFETY: the map's own pointer; the helper refuses what cannot be read.
    unsafe {
        let late_ns = if TIMER_EXPIRES.load() == 0 {
            0
        } else {
            let due: i64 = timer.known(&TIMER_EXPIRES);
            let found = bpf_probe_read_kernel(expired).unwrap_or(due);
            if found > due { believable((found - due) as u64) } else { 0 }
        };
        (*cpu).timer_late_ns = late_ns;
        (*cpu).timer_since_ns = begin(cpu);
    }
}

/// A high-resolution timer's function is done.
#[inline(always)]
pub fn timer_ends() {
    let Some(cpu) = occupancy::here() else { return };
    // SAFETY: the map's own pointer.
    unsafe {
        let since = (*cpu).timer_since_ns;
        (*cpu).timer_since_ns = 0;
        if since > UNTIMED {
            within(cpu, since, now(), place::TIMER);
        }
    }
}

/// Notes something that began at `since` and may have interrupted a soft interrupt.
#[inline(always)]
unsafe fn within(cpu: *mut Cpu, since: u64, now: u64, place: usize) {
    let ns = span(since, now);
    // SAFETY: as the callers promise.
    unsafe {
        if (*cpu).soft_since_ns != 0 {
            (*cpu).soft_nested_ns += ns;
        }
    }
    occupancy::interrupted(cpu, ns, place);
}

/// Now, `CLOCK_MONOTONIC` nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: a helper without conditions.
    unsafe { bpf_ktime_get_ns() }
}
