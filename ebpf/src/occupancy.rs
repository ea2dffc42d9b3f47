//! Who has a CPU: how long each culprit had it, summed by CPU, so that a thread that waited finds
//! out for whom by the difference from when it began to wait. Only the CPU itself writes its sums.

use core::hint::black_box;

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use downbeat_abi::{Counter, Cpu, CulpritKind, HASHED, KEEP_NS, Label, NO_CLASS, PLACES, place};

use crate::maps::{CPUS, count};
use crate::task::Task;

/// What a thread was not charged for is the hypervisor's from here on, nanoseconds; less is noise
/// of the two clocks.
const STOLEN_FROM_NS: u64 = 50_000;

/// The first eight bytes of their names.
const KWORKER: u64 = u64::from_ne_bytes(*b"kworker/");

/// Who a culprit is.
#[derive(Clone, Copy)]
struct Identity {
    kind: CulpritKind,
    id: u32,
    comm: [u64; 2],
}

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
        let since = (*cpu).since_ns;
        if since != 0 {
            let slice = now.saturating_sub(since);
            let interrupted = (*cpu).interrupted_ns;
            let rest = slice.saturating_sub(interrupted);
            let place = (*cpu).place;
            let charged = prev.exec_ns().saturating_sub((*cpu).exec_ns);
            let lost = rest.saturating_sub(charged);
            let stolen =
                if lost < STOLEN_FROM_NS || place == place::IDLE as u32 { 0 } else { lost };
            *sum(cpu, place::STOLEN) += stolen;
            *sum(cpu, place as usize) += rest - stolen;
        }
        (*cpu).place = place_of(cpu, now, next, slot);
        (*cpu).since_ns = now;
        (*cpu).exec_ns = next.exec_ns();
        (*cpu).interrupted_ns = 0;
        (*cpu).tgid = next.tgid();
    }
}

/// An interrupt that took `ns` nanoseconds, without others within it, ended.
#[inline(always)]
pub fn interrupted(cpu: *mut Cpu, ns: u64, place: usize) {
    // SAFETY: as above.
    unsafe {
        (*cpu).interrupted_ns += ns;
        *sum(cpu, place) += ns;
    }
}

/// The place of an interrupt of this kind and number.
#[inline(always)]
pub fn place_of_interrupt(cpu: *mut Cpu, now: u64, kind: CulpritKind, id: u32) -> usize {
    hashed(cpu, now, Identity { kind, id, comm: [0; 2] }) as usize
}

/// What the present occupant had of the CPU since the last switch, nanoseconds.
#[inline(always)]
pub fn unsettled(cpu: *const Cpu, now: u64) -> u64 {
    // SAFETY: the map's own pointer.
    unsafe {
        if (*cpu).since_ns == 0 {
            return 0;
        }
        now.saturating_sub((*cpu).since_ns).saturating_sub((*cpu).interrupted_ns)
    }
}

#[inline(always)]
unsafe fn sum(cpu: *mut Cpu, place: usize) -> *mut u64 {
    // SAFETY: as the callers promise; the index is masked.
    unsafe { (&raw mut (*cpu).ns).cast::<u64>().add(within(place)) }
}

#[inline(always)]
fn place_of(cpu: *mut Cpu, now: u64, task: Task, slot: u32) -> u32 {
    if task.tid() == 0 {
        return place::IDLE as u32;
    }
    let who = if slot != NO_CLASS {
        Identity { kind: CulpritKind::Class, id: slot, comm: [0; 2] }
    } else {
        let kernel = task.is_kernel_thread();
        let kind = if kernel { CulpritKind::Kernel } else { CulpritKind::Program };
        let mut comm = task.program();
        // Workers of the kernel are many, and what tells them apart says nothing.
        if comm[0] == KWORKER {
            comm[1] = 0;
        }
        Identity { kind, id: 0, comm }
    };
    hashed(cpu, now, who)
}

/// The place of a culprit: one of four that its identity leads to, its own, or one that is free or
/// that nobody used for long.
#[inline(always)]
fn hashed(cpu: *mut Cpu, now: u64, who: Identity) -> u32 {
    let Identity { kind, id, comm } = who;
    let kind = kind as u32;
    let what = (u64::from(kind) << 32) | u64::from(id);
    let mixed = (what ^ comm[0] ^ comm[1].rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let home = (mixed >> 59) as usize;
    let mut free = PLACES;
    // SAFETY: the map's own pointer, and every index is masked.
    unsafe {
        for other in [0, 1, 11, 22] {
            let n = index((home ^ other) as u64, HASHED);
            let label = (&raw mut (*cpu).labels).cast::<Label>().add(n);
            let its = (&raw const (*label).comm).cast::<[u64; 2]>().read();
            let differs = u64::from((*label).kind ^ kind)
                | u64::from((*label).id ^ id)
                | (its[0] ^ comm[0])
                | (its[1] ^ comm[1]);
            if black_box(differs) == 0 {
                (*label).used_ns = now;
                return n as u32;
            }
            if now.saturating_sub((*label).used_ns) > KEEP_NS {
                free = n;
            }
        }
        if free >= HASHED {
            count(Counter::DroppedBlame);
            return place::UNKNOWN as u32;
        }
        let n = index(free as u64, HASHED);
        let label = (&raw mut (*cpu).labels).cast::<Label>().add(n);
        (*label).kind = kind;
        (*label).id = id;
        (&raw mut (*label).comm).cast::<[u64; 2]>().write(comm);
        (*label).since_ns = now;
        (*label).used_ns = now;
        n as u32
    }
}

/// `n` within a table of `len` entries, so that the verifier sees it: LLVM would drop a mask that
/// it thinks of no use.
#[inline(always)]
pub fn index(n: u64, len: usize) -> usize {
    black_box(n as usize) & (len - 1)
}

/// The same for a place.
#[inline(always)]
pub fn within(place: usize) -> usize {
    let place = black_box(place);
    if place < PLACES { place } else { place::UNKNOWN }
}
