//! For whom a managed thread waited: what each culprit had of its CPU from the moment it was ready
//! to the moment it ran.

use core::ffi::c_void;
use core::hint::black_box;

use aya_ebpf::helpers::generated::bpf_loop;
use downbeat_abi::{
    Cpu, Culprit, CulpritKind, HASHED, JOB_CULPRITS, Job, Label, PLACES, Thread, VICTIMS, place,
};

use crate::atomic;
use crate::maps::{self, BLAME_ON, CPUS, OWN};
use crate::occupancy::{index, unsettled, within};
use crate::task::Task;

/// A move to another CPU so soon after the wake-up is where the thread was put, nanoseconds.
const PLACING_NS: u64 = 3_000;

/// Who had the CPU for less is not told in a job's story, nanoseconds.
const WORTH_TELLING_NS: u64 = 20_000;

/// A thread is ready, on the CPU that `thread` names: from now on it waits for whoever has that.
///
/// # Safety
/// `thread` and `job` are live values of their maps.
#[inline(always)]
pub unsafe fn begin(thread: *mut Thread, job: *mut Job, task: Task, now: u64) {
    if BLAME_ON.load() == 0 {
        return;
    }
    // SAFETY: as the caller promises; every index is masked.
    unsafe {
        let number = (*thread).cpu;
        let Some(cpu) = CPUS.get_ptr_mut(number) else { return };
        let sums = (&raw const (*cpu).ns).cast::<u64>();
        let marks = (&raw mut (*job).marks).cast::<u64>();
        for n in 0..PLACES {
            marks.add(n).write_volatile(sums.add(n).read_volatile());
        }
        let unsettled = unsettled(cpu, now);
        *marks.add(within((*cpu).place as usize)) += unsettled;
        (*job).own_mark_ns = own(cpu, thread, task, unsettled);
        (*thread).blame_ns = now;
    }
}

/// A waiting thread moves to another CPU: the time until now is blamed on the old one's.
///
/// # Safety
/// As [`begin`].
#[inline(always)]
pub unsafe fn moved(thread: *mut Thread, task: Task, now: u64, cpu: u32) {
    // SAFETY: as the caller promises.
    unsafe {
        let job = maps::job((*thread).job);
        if (*thread).ready_ns != 0
            && let Some(job) = job
            && now.saturating_sub((*thread).ready_ns) >= PLACING_NS
        {
            settle(thread, job, task, now);
        }
        (*thread).cpu = cpu;
        if (*thread).ready_ns != 0
            && let Some(job) = job
        {
            begin(thread, job, task, now);
        }
    }
}

/// Blames the wait since [`begin`] on whoever had the thread's CPU.
///
/// # Safety
/// As [`begin`].
#[inline(always)]
pub unsafe fn settle(thread: *mut Thread, job: *mut Job, task: Task, now: u64) {
    if BLAME_ON.load() == 0 {
        return;
    }
    // SAFETY: as the caller promises; every index is masked or counted.
    unsafe {
        let from = (*thread).blame_ns;
        if from == 0 || from >= now {
            return;
        }
        (*thread).blame_ns = 0;
        let wait_ns = now - from;
        let number = (*thread).cpu;
        let Some(cpu) = CPUS.get_ptr_mut(number) else { return };
        let unsettled = unsettled(cpu, now);
        let own_ns = own(cpu, thread, task, unsettled).saturating_sub((*job).own_mark_ns);
        let own_ns = own_ns.min(wait_ns);
        add(cpu, job, (*thread).slot, place::WORKLOAD, own_ns);
        (*job).own_left_ns = own_ns;
        (*job).blamed_ns = own_ns;
        (*job).places_left = differences(cpu, job, unsettled);
        let mut settling = Settling { cpu, job, thread, from };
        bpf_loop(PLACES as u32, settle_one as *mut c_void, (&raw mut settling).cast(), 0);
        let known_ns = (*job).blamed_ns;
        add(cpu, job, (*thread).slot, place::UNKNOWN, wait_ns.saturating_sub(known_ns));
    }
}

/// Puts into the marks how long each place had the CPU since they were taken, and tells which had
/// it at all. Without a branch, which the verifier would follow on each turn.
#[inline(always)]
unsafe fn differences(cpu: *const Cpu, job: *mut Job, unsettled: u64) -> u64 {
    // SAFETY: as the callers promise; every index is masked or counted.
    unsafe {
        let sums = (&raw const (*cpu).ns).cast::<u64>();
        let marks = (&raw mut (*job).marks).cast::<u64>();
        let present = marks.add(within((*cpu).place as usize));
        present.write_volatile(present.read_volatile().wrapping_sub(unsettled));
        let mut changed = 0;
        for n in 0..PLACES {
            let ns = sums.add(n).read_volatile().wrapping_sub(marks.add(n).read_volatile());
            marks.add(n).write_volatile(ns);
            changed |= ((ns | ns.wrapping_neg()) >> 63) << n;
        }
        changed
    }
}

/// What a turn of [`settle_one`] needs.
#[repr(C)]
struct Settling {
    cpu: *mut Cpu,
    job: *mut Job,
    thread: *mut Thread,
    /// Since when the thread waited.
    from: u64,
}

/// Blames the next place that is left. Returns 1 when none is.
#[inline(never)]
extern "C" fn settle_one(_: u32, settling: *mut Settling) -> u64 {
    // SAFETY: `bpf_loop` hands over what `settle` gave it; every index is masked.
    unsafe {
        let Settling { cpu, job, thread, from } = settling.read();
        let left = (*job).places_left;
        if left == 0 {
            return 1;
        }
        (*job).places_left = left & (left - 1);
        let n = within(lowest_bit(left) as usize);
        let mut ns = *(&raw const (*job).marks).cast::<u64>().add(n);
        // The sums of another CPU may be read in the middle of their change.
        if ns > i64::MAX as u64 {
            return 0;
        }
        let slot = (*thread).slot;
        if n < HASHED {
            let label = (&raw const (*cpu).labels).cast::<Label>().add(index(n as u64, HASHED));
            // The process's own threads are in its class's place, or in its program's.
            if is_own(label, slot) {
                let part = (*job).own_left_ns.min(ns);
                (*job).own_left_ns -= part;
                ns -= part;
            }
            if (*label).since_ns > from {
                // In part another's: left to the unknown.
                return 0;
            }
        }
        (*job).blamed_ns += ns;
        add(cpu, job, slot, n, ns);
        0
    }
}

/// Number of the lowest bit that is set: there is no instruction for it.
#[inline(always)]
fn lowest_bit(word: u64) -> u64 {
    let bit = word & word.wrapping_neg();
    let half = |mask: u64, shift: u64| u64::from(bit & mask != 0) * shift;
    half(0xffff_ffff_0000_0000, 32)
        + half(0xffff_0000_ffff_0000, 16)
        + half(0xff00_ff00_ff00_ff00, 8)
        + half(0xf0f0_f0f0_f0f0_f0f0, 4)
        + half(0xcccc_cccc_cccc_cccc, 2)
        + half(0xaaaa_aaaa_aaaa_aaaa, 1)
}

/// Whether a process whose threads are of class `slot` may be in the place with this label.
#[inline(always)]
unsafe fn is_own(label: *const Label, slot: u32) -> bool {
    // SAFETY: as the callers promise.
    unsafe {
        let kind = (*label).kind;
        (kind == CulpritKind::Class as u32 && (*label).id == slot)
            || kind == CulpritKind::Program as u32
    }
}

/// What managed threads of the task's own process had of a CPU so far; nothing for a process of
/// one thread.
#[inline(always)]
unsafe fn own(cpu: *const Cpu, thread: *const Thread, task: Task, unsettled: u64) -> u64 {
    // SAFETY: the maps' own pointers.
    unsafe {
        if (*thread).has_siblings == 0 {
            return 0;
        }
        let tgid = task.tgid();
        let key = own_key(tgid, (*thread).cpu);
        let settled = OWN.get_ptr(key).map_or(0, |ns| ns.read_volatile());
        if (*cpu).tgid == tgid { settled + unsettled } else { settled }
    }
}

/// A managed thread had a CPU for `ns` nanoseconds.
///
/// # Safety
/// `thread` is a live value of its map.
#[inline(always)]
pub unsafe fn ran(thread: *mut Thread, task: Task, cpu: u32, ns: u64) {
    if BLAME_ON.load() == 0 {
        return;
    }
    // SAFETY: the maps' own pointers.
    unsafe {
        let has_siblings = task.has_siblings();
        (*thread).has_siblings = has_siblings.into();
        if !has_siblings {
            return;
        }
        let key = own_key(task.tgid(), cpu);
        if let Some(sum) = OWN.get_ptr_mut(key) {
            atomic::add(sum, ns);
        } else {
            // Where it fails, its own threads count as their class once.
            let _ = OWN.insert(key, ns, 0);
        }
    }
}

#[inline(always)]
const fn own_key(tgid: u32, cpu: u32) -> u64 {
    ((tgid as u64) << 32) | cpu as u64
}

/// Adds to the sums of the victim's class, and to the job under way.
#[inline(always)]
unsafe fn add(cpu: *mut Cpu, job: *mut Job, slot: u32, n: usize, ns: u64) {
    if ns == 0 {
        return;
    }
    // Threads without a class have the last row.
    let row = (slot as usize).min(VICTIMS - 1);
    if row >= VICTIMS {
        return;
    }
    // SAFETY: as the callers promise; both indexes are in range.
    unsafe {
        let sums = (&raw mut (*cpu).blame).cast::<u64>();
        atomic::add(sums.add(black_box(row) * PLACES + n), ns);
        if ns < WORTH_TELLING_NS {
            (*job).story.other_ns += ns;
        } else {
            note(cpu, job, n, ns);
        }
    }
}

/// Adds to the culprits of the job under way: the one that is known already, a free place, or the
/// one with the least, which makes room.
#[inline(never)]
unsafe fn note(cpu: *const Cpu, job: *mut Job, n: usize, ns: u64) {
    // SAFETY: as the callers promise; every index is masked.
    unsafe {
        let culprit = named(cpu, n, ns);
        let kept = (&raw mut (*job).story.culprits).cast::<Culprit>();
        let taken = (*job).story.culprit_count;
        // Nanoseconds above, the place in the lowest two bits. The one that is known counts as
        // having nothing, and a free one as next to nothing, so that they are the least.
        let mut least = u64::MAX;
        for n in 0..JOB_CULPRITS {
            let place = kept.add(n);
            let rank = if n as u64 >= taken {
                1 << 3
            } else if differ(place, &raw const culprit) == 0 {
                0
            } else {
                ((*place).ns << 3) | (1 << 4)
            };
            least = least.min(rank | n as u64);
        }
        let place = kept.add(index(least, JOB_CULPRITS));
        if least < 1 << 3 {
            (*place).ns += ns;
        } else if least < 1 << 4 {
            (*job).story.culprit_count = taken + 1;
            *place = culprit;
        } else if (*place).ns < ns {
            (*job).story.other_ns += (*place).ns;
            *place = culprit;
        } else {
            (*job).story.other_ns += ns;
        }
    }
}

/// Who has a place.
#[inline(always)]
unsafe fn named(cpu: *const Cpu, n: usize, ns: u64) -> Culprit {
    let plain = |kind: CulpritKind, id| Culprit { kind: kind as u32, id, comm: [0; 16], ns };
    if n < HASHED {
        // SAFETY: as the callers promise; the index is masked.
        unsafe {
            let label = (&raw const (*cpu).labels).cast::<Label>().add(index(n as u64, HASHED));
            let Label { kind, id, comm, .. } = *label;
            return Culprit { kind, id, comm, ns };
        }
    }
    match n {
        place::IDLE => plain(CulpritKind::Idle, 0),
        place::TIMER => plain(CulpritKind::Timer, 0),
        place::STOLEN => plain(CulpritKind::Stolen, 0),
        place::WORKLOAD => plain(CulpritKind::Workload, 0),
        _ => plain(CulpritKind::Unknown, 0),
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
