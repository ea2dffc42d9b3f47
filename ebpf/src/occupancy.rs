//! Who has a CPU: a record of each CPU's latest occupants and interrupts, in which a thread that
//! waited looks up for whom. Only the CPU itself writes its record.

use core::hint::black_box;

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use downbeat_abi::{COMM_LEN, Cpu, CulpritKind, NO_CLASS, OCCUPANTS, Occupant, SPANS, Span};

use crate::maps::CPUS;
use crate::task::Task;

/// Bits of a [`Span`]'s id.
const ID_BITS: u32 = 24;

/// This CPU's record.
#[inline(always)]
pub fn here() -> Option<*mut Cpu> {
    // SAFETY: a helper without conditions.
    CPUS.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })
}

/// The CPU went from `prev` to `next`, a thread of class `slot`.
#[inline(always)]
pub fn switched(cpu: *mut Cpu, now: u64, prev: Task, next: Task, slot: u32) {
    // SAFETY: the map's own pointer, and every index is masked.
    unsafe {
        let switches = (*cpu).switches;
        let occupants = (&raw mut (*cpu).occupants).cast::<Occupant>();
        let before = occupants.add(index(switches.wrapping_sub(1), OCCUPANTS));
        let uncharged = if (*before).kind == CulpritKind::Idle as u32 || (*before).start_ns == 0 {
            0
        } else {
            let charged = prev.exec_ns().wrapping_sub((*before).exec_ns);
            now.wrapping_sub((*before).start_ns).saturating_sub(charged)
        };
        (*before).lost_ns = if uncharged < u64::from(u32::MAX) { uncharged as u32 } else { 0 };
        let at = occupants.add(index(switches, OCCUPANTS));
        (*at).start_ns = now;
        (*at).exec_ns = next.exec_ns();
        (*at).tgid = next.tgid();
        let (kind, id, comm) = identity(next, slot);
        (*at).kind = kind as u32;
        (*at).id = id;
        (*at).lost_ns = 0;
        (*at).comm = comm;
        (*cpu).switches = switches + 1;
    }
}

/// The program that runs on this CPU is another one from now on.
#[inline(always)]
pub fn renamed(task: Task) {
    let Some(cpu) = here() else { return };
    // SAFETY: as above.
    unsafe {
        let occupants = (&raw mut (*cpu).occupants).cast::<Occupant>();
        let at = occupants.add(index((*cpu).switches.wrapping_sub(1), OCCUPANTS));
        if (*at).kind == CulpritKind::Program as u32 {
            (*at).comm = task.program();
        }
    }
}

#[inline(always)]
fn identity(task: Task, slot: u32) -> (CulpritKind, u32, [u8; COMM_LEN]) {
    if slot != NO_CLASS {
        (CulpritKind::Class, slot, [0; COMM_LEN])
    } else if task.tid() == 0 {
        (CulpritKind::Idle, 0, [0; COMM_LEN])
    } else if task.is_kernel_thread() {
        (CulpritKind::Kernel, 0, task.program())
    } else {
        (CulpritKind::Program, 0, task.program())
    }
}

/// An interrupt that took `ns` nanoseconds, without others within it, ended at `now`.
#[inline(always)]
pub fn interrupted(cpu: *mut Cpu, now: u64, ns: u64, kind: CulpritKind, id: u32) {
    // SAFETY: as above.
    unsafe {
        let seen = (*cpu).spans_seen;
        let at = (&raw mut (*cpu).spans).cast::<Span>().add(index(seen.into(), SPANS));
        (*at).end_ns = now;
        (*at).ns = ns as u32;
        (*at).what = ((kind as u32) << ID_BITS) | (id & ((1 << ID_BITS) - 1));
        (*cpu).spans_seen = seen.wrapping_add(1);
    }
}

/// Kind and id of a span.
#[inline(always)]
pub const fn cause(span: &Span) -> (u32, u32) {
    (span.what >> ID_BITS, span.what & ((1 << ID_BITS) - 1))
}

/// Where entry `n` of a ring of `len` lies, so that the verifier sees it: LLVM would drop a mask
/// that it thinks of no use.
#[inline(always)]
pub fn index(n: u64, len: usize) -> usize {
    black_box(n as usize) & (len - 1)
}
