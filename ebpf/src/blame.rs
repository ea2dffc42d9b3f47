//! For whom a managed thread waited: its wait, split over those who had its CPU meanwhile.

use core::ffi::c_void;
use core::hint::black_box;
use core::ptr::null_mut;

use aya_ebpf::helpers::generated::bpf_loop;
use downbeat_abi::{
    BlameKey, Counter, Cpu, Culprit, CulpritKind, JOB_CULPRITS, Job, OCCUPANTS, Occupant, SPANS,
    Span, Thread,
};

use crate::atomic;
use crate::maps::{BLAME, BLAME_ON, CPUS, FOUND, count};
use crate::occupancy::{cause, index};

/// Occupants and interrupts that one wait is followed back through; what is left is unknown.
const MOST_STEPS: u32 = 256;

/// Places for culprits in one wait: a power of two.
const PLACES: usize = 16;

/// The place of what the hypervisor stole, after those.
const STOLEN: usize = PLACES;

/// The place of what nobody knows, and of culprits that found no place.
const UNKNOWN: usize = PLACES + 1;

/// Places in all.
const ALL: usize = PLACES + 2;

/// What a thread was not charged for is the hypervisor's from here on; less is noise of the two
/// clocks.
const STOLEN_FROM_NS: u64 = 50_000;

/// Moves before the thread has waited so long are not worth a look.
const SETTLE_FROM_NS: u64 = 2_000;

/// One look back, and the culprits found. It lies in a map and not on the stack, since the
/// verifier follows what a stack holds from step to step and would not come to an end.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Found {
    culprits: [Culprit; ALL],
    /// The places that are taken, in the order in which they were.
    taken: [u64; PLACES],
    /// How many these are.
    taken_count: u64,
    /// Explained so far, nanoseconds.
    explained_ns: u64,
    /// The wait.
    from_ns: u64,
    to_ns: u64,
    /// End of the occupant's time that is looked at.
    end_ns: u64,
    /// Interrupts within it so far, nanoseconds.
    interrupts_ns: u64,
    /// Occupant looked at, counted like [`Cpu::switches`].
    occupant: u64,
    /// Interrupt looked at, counted like [`Cpu::spans_seen`].
    span: u64,
    /// The process that waited.
    tgid: u64,
}

/// What a step needs.
#[repr(C)]
struct Walk {
    cpu: *const Cpu,
    found: *mut Found,
}

/// A waiting thread moves to another CPU: the time until now is blamed on the old one's.
#[inline(always)]
pub fn moved(thread: *mut Thread, job: Option<*mut Job>, tgid: u32, now: u64, cpu: u32) {
    // SAFETY: the maps' own pointers.
    unsafe {
        if (*thread).ready_ns != 0 && now.saturating_sub((*thread).blame_ns) >= SETTLE_FROM_NS {
            settle(thread, job, tgid, now);
        }
        (*thread).cpu = cpu;
    }
}

/// Blames the wait since `blame_ns` on whoever had the thread's CPU.
#[inline(always)]
pub fn settle(thread: *mut Thread, job: Option<*mut Job>, tgid: u32, now: u64) {
    if BLAME_ON.load() == 0 {
        return;
    }
    // SAFETY: the maps' own pointers.
    unsafe {
        let from = (*thread).blame_ns;
        (*thread).blame_ns = now;
        if from == 0 || from >= now {
            return;
        }
        let Some(cpu) = CPUS.get_ptr((*thread).cpu) else { return };
        let Some(found) = FOUND.get_ptr_mut(0) else { return };
        (*place(found, STOLEN)).kind = CulpritKind::Stolen as u32;
        (*place(found, UNKNOWN)).kind = CulpritKind::Unknown as u32;
        (*found).explained_ns = 0;
        (*found).taken_count = 0;
        (*found).from_ns = from;
        (*found).to_ns = now;
        (*found).end_ns = now;
        (*found).interrupts_ns = 0;
        (*found).tgid = tgid.into();
        (*found).span = u64::from((*cpu).spans_seen).wrapping_sub(1);
        let mut occupant = (*cpu).switches.wrapping_sub(1);
        // A thread that is just being switched to is its CPU's present occupant already.
        let latest =
            (&raw const (*cpu).occupants).cast::<Occupant>().add(index(occupant, OCCUPANTS));
        if (*latest).start_ns >= now {
            occupant = occupant.wrapping_sub(1);
        }
        (*found).occupant = occupant;
        let mut walk = Walk { cpu, found };
        bpf_loop(MOST_STEPS, step as *mut c_void, (&raw mut walk).cast(), 0);
        let unknown = place(found, UNKNOWN);
        (*unknown).ns += (now - from).saturating_sub((*found).explained_ns);
        let mut share = Share { found, job: job.unwrap_or(null_mut()), victim: (*thread).slot };
        let taken = (*found).taken_count.min(PLACES as u64) as u32;
        bpf_loop(taken + 2, hand_out as *mut c_void, (&raw mut share).cast(), 0);
    }
}

#[inline(always)]
unsafe fn place(found: *mut Found, n: usize) -> *mut Culprit {
    // SAFETY: as the callers promise, with `n` below `ALL`.
    unsafe { (&raw mut (*found).culprits).cast::<Culprit>().add(n) }
}

/// One step back: to the interrupt before, or, where none is left in the occupant's time, to the
/// occupant before. Returns 1 when the start of the wait is reached.
///
/// Written with as few branches as it can be: the verifier follows each of them on each step.
#[inline(never)]
extern "C" fn step(_: u32, walk: *mut Walk) -> u64 {
    // SAFETY: `bpf_loop` hands over what `settle` gave it; every index is masked.
    unsafe {
        let Walk { cpu, found } = walk.read();
        let occupant = (&raw const (*cpu).occupants)
            .cast::<Occupant>()
            .add(index((*found).occupant, OCCUPANTS));
        let began = (*occupant).start_ns;
        if began == 0 {
            return 1;
        }
        let start = began.max((*found).from_ns);
        let span = (&raw const (*cpu).spans).cast::<Span>().add(index((*found).span, SPANS));
        let span_end = (*span).end_ns;
        if span_end > start {
            (*found).span = (*found).span.wrapping_sub(1);
            if span_end <= (*found).to_ns {
                let ns = u64::from((*span).ns).min(span_end - start);
                (*found).interrupts_ns += ns;
                let (kind, id) = cause(&*span);
                add(found, kind, id, [0; 2], ns);
            }
            return 0;
        }
        let interrupts = (*found).interrupts_ns;
        let ns = (*found).end_ns.saturating_sub(start).saturating_sub(interrupts);
        (*found).interrupts_ns = 0;
        (*found).end_ns = start;
        (*found).occupant = (*found).occupant.wrapping_sub(1);

        let lost = u64::from((*occupant).lost_ns).saturating_sub(interrupts);
        let stolen = if lost < STOLEN_FROM_NS { 0 } else { lost.min(ns) };
        (*place(found, STOLEN)).ns += stolen;
        (*found).explained_ns += stolen;

        let comm = (&raw const (*occupant).comm).cast::<[u64; 2]>();
        if u64::from((*occupant).tgid) == (*found).tgid {
            add(found, CulpritKind::Workload as u32, 0, [0; 2], ns - stolen);
        } else {
            add(found, (*occupant).kind, (*occupant).id, comm.read(), ns - stolen);
        }
        (began <= (*found).from_ns).into()
    }
}

/// Adds to a culprit of this wait: in one of four places that its identity leads to, or, where
/// others have them all, to the unknown.
#[inline(never)]
unsafe fn add(found: *mut Found, kind: u32, id: u32, comm: [u64; 2], ns: u64) {
    // SAFETY: as in `step`.
    unsafe {
        (*found).explained_ns += ns;
        let what = u64::from(kind) << 32 | u64::from(id);
        let mixed = (what ^ comm[0] ^ comm[1].rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let home = (mixed >> 60) as usize;
        for other in [0, 1, 6, 11] {
            let n = black_box(home ^ other) & (PLACES - 1);
            let culprit = place(found, n);
            let name = (&raw mut (*culprit).comm).cast::<[u64; 2]>();
            let its = name.read();
            let differs = u64::from((*culprit).kind ^ kind)
                | u64::from((*culprit).id ^ id)
                | (its[0] ^ comm[0])
                | (its[1] ^ comm[1]);
            if (*culprit).ns == 0 {
                (*culprit).kind = kind;
                (*culprit).id = id;
                name.write(comm);
                // What took no time takes no place.
                (*culprit).ns = ns;
                if ns != 0 {
                    let taken = (&raw mut (*found).taken).cast::<u64>();
                    *taken.add(index((*found).taken_count, PLACES)) = n as u64;
                    (*found).taken_count += 1;
                }
                return;
            }
            if black_box(differs) == 0 {
                (*culprit).ns += ns;
                return;
            }
        }
        (*place(found, UNKNOWN)).ns += ns;
    }
}

/// Where the culprits go.
#[repr(C)]
struct Share {
    found: *mut Found,
    /// Null where the thread's jobs are not followed.
    job: *mut Job,
    victim: u32,
}

/// Adds the culprit in the `n`th place that is taken to the sums of its victim's class and to the
/// job under way, and makes the place free. The two places after those have a meaning of their own.
#[inline(never)]
extern "C" fn hand_out(n: u32, share: *mut Share) -> u64 {
    // SAFETY: `bpf_loop` hands over what `settle` gave it; every index is masked or compared.
    unsafe {
        let Share { found, job, victim } = share.read();
        let n = u64::from(n);
        let count = (*found).taken_count;
        let at = if n < count {
            let taken = (&raw const (*found).taken).cast::<u64>();
            *taken.add(index(n, PLACES))
        } else {
            PLACES as u64 + (n - count)
        };
        let at = black_box(at) as usize;
        if at >= ALL {
            return 1;
        }
        let culprit = place(found, at);
        if (*culprit).ns != 0 {
            charge(victim, culprit);
            if !job.is_null() {
                note(job, culprit);
            }
            (*culprit).ns = 0;
        }
        0
    }
}

/// Adds to the sum of (victim, culprit).
#[inline(always)]
unsafe fn charge(victim: u32, culprit: *const Culprit) {
    // SAFETY: the maps' own pointers.
    unsafe {
        let Culprit { kind, id, comm, ns } = *culprit;
        let key = BlameKey { victim, kind, id, padding: 0, comm };
        if let Some(sum) = BLAME.get_ptr_mut(key) {
            atomic::add(sum, ns);
        } else if BLAME.insert(key, ns, 0).is_err() {
            count(Counter::DroppedBlame);
        }
    }
}

/// Adds to the culprits of the job under way: the one that is known already, or the one with the
/// least, which makes room.
#[inline(always)]
unsafe fn note(job: *mut Job, culprit: *const Culprit) {
    // SAFETY: the maps' own pointers.
    unsafe {
        let kept = (&raw mut (*job).story.culprits).cast::<Culprit>();
        let ns = (*culprit).ns;
        // Nanoseconds above, the place in the lowest two bits. The one that is known counts as
        // having nothing, so that it is the least; where none is, the least is free or replaced.
        let mut least = u64::MAX;
        for n in 0..JOB_CULPRITS {
            let place = kept.add(n);
            let rank = if differ(place, culprit) == 0 { 0 } else { ((*place).ns << 3) | 4 };
            least = least.min(rank | n as u64);
        }
        let place = kept.add(black_box(least as usize) & (JOB_CULPRITS - 1));
        if least & 4 == 0 {
            (*place).ns += ns;
            return;
        }
        let before = (*place).ns;
        if before < ns {
            (*job).story.other_ns += before;
            *place = *culprit;
        } else {
            (*job).story.other_ns += ns;
        }
    }
}

/// 0 where both are the same one.
#[inline(always)]
unsafe fn differ(a: *const Culprit, b: *const Culprit) -> u64 {
    // SAFETY: as the callers promise.
    unsafe {
        let a_name = (&raw const (*a).comm).cast::<[u64; 2]>().read();
        let b_name = (&raw const (*b).comm).cast::<[u64; 2]>().read();
        black_box(
            u64::from((*a).kind ^ (*b).kind)
                | u64::from((*a).id ^ (*b).id)
                | (a_name[0] ^ b_name[0])
                | (a_name[1] ^ b_name[1]),
        )
    }
}
