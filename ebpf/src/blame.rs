//! Threads that wait for a CPU: counted there while they do, so that [`crate::occupancy`] blames
//! their waits; and who it was, for the story of a job that missed its deadline.

use aya_ebpf::helpers::generated::bpf_loop;
use core::ffi::c_void;
use downbeat_abi::{
    Cpu, Culprit, CulpritKind, HASHED, JOB_CULPRITS, JOB_WAITS, Job, JobWait, Label, NO_JOB,
    ONE_WAITING, PLACES, SLICES, Thread, VICTIMS, place, row_bit, waiting_in,
};

use crate::atomic;
use crate::maps::{self, BLAME_ON, CPUS};
use crate::occupancy::{index, lowest_bit, own_word, present_ns, row_now, waiting, within};
use crate::opaque::opaque;
use crate::span::span;
use crate::task::Task;

/// A move to another CPU so soon after the wake-up is where the thread was put, nanoseconds.
const PLACING_NS: u64 = 3_000;

/// Who had the CPU for less is not told in a job's story, nanoseconds.
const WORTH_TELLING_NS: u64 = 20_000;

/// A thread is ready, on the CPU that `thread` names: from now on it waits for whoever has that.
///
/// # Safety
/// `thread` is a live value of its map, and `cpu` that CPU's.
#[inline(always)]
pub unsafe fn begin(thread: *mut Thread, cpu: *mut Cpu, now: u64) {
    if BLAME_ON.load() == 0 {
        return;
    }
    // SAFETY: as the caller promises; every index is in range.
    unsafe {
        if u32::from((*thread).job) == NO_JOB {
            return;
        }
        // Threads without a class have the last row.
        let number = ((*thread).slot as usize).min(VICTIMS - 1) as u8;
        let Some((row, bit)) = row(cpu, number) else { return };
        (*thread).row = number;
        (*thread).generation = (*cpu).generation as u16;
        (*thread).slice = (*cpu).slice_count;
        let mut had_ns = 0;
        if waiting(cpu) == 0 {
            // Written before the thread is counted: the CPU believes it once it is.
            (*cpu).begun_ns = now;
            (*cpu).interrupted_wait_ns = 0;
        } else {
            had_ns = present_ns(cpu, now);
        }
        (*thread).skip_ns = had_ns.min(u32::MAX.into()) as u32;
        let process = (*thread).process;
        if process != 0 {
            let word = own_word(cpu, process);
            // Nobody else's is there: theirs count as their class then.
            if word.read_volatile() & 0xffff_ffff == 0 {
                word.write_volatile(u64::from(process) << 32);
            }
            if word.read_volatile() >> 32 == process.into() {
                atomic::add(word, 1);
            } else {
                (*thread).process = 0;
            }
        }
        atomic::add(row, ONE_WAITING.wrapping_add(had_ns));
        // Looked at after the thread is counted: the CPU clears the bit and looks at the count then.
        if waiting(cpu) & bit == 0 {
            (&raw mut (*cpu).late_row).write_volatile(number.into());
            atomic::or(&raw mut (*cpu).rows_waiting, bit);
        }
        (*thread).blame_ns = now;
    }
}

/// A thread does not wait any more, or not there: told from anywhere.
///
/// # Safety
/// As [`begin`].
#[inline(always)]
pub unsafe fn forget(thread: *mut Thread) {
    // SAFETY: as the caller promises; every index is in range.
    unsafe {
        if (*thread).blame_ns == 0 {
            return;
        }
        if let Some(cpu) = CPUS.get_ptr_mut((*thread).cpu.into())
            && is_counted(thread, cpu)
            && let Some((row, _)) = row(cpu, (*thread).row)
        {
            atomic::add(row, ONE_WAITING.wrapping_neg());
            forget_own(thread, cpu);
        }
        (*thread).blame_ns = 0;
    }
}

/// The same while this CPU switches, which is number `here`: what it takes out of its own rows needs
/// no locked instruction.
///
/// # Safety
/// As [`begin`]; `cpu` is this CPU's record, and interrupts are off.
#[inline(always)]
pub unsafe fn forget_here(thread: *mut Thread, cpu: *mut Cpu, here: u32) {
    // SAFETY: as the caller promises; every index is in range.
    unsafe {
        if (*thread).blame_ns == 0 {
            return;
        }
        if u32::from((*thread).cpu) != here {
            return forget(thread);
        }
        (*thread).blame_ns = 0;
        let number = opaque((*thread).row.into()) as usize;
        if number < VICTIMS && is_counted(thread, cpu) {
            *(&raw mut (*cpu).settled).cast::<u64>().add(number) += ONE_WAITING;
            forget_own(thread, cpu);
        }
    }
}

/// Whether the CPU still counts the thread among those that wait there.
#[inline(always)]
unsafe fn is_counted(thread: *const Thread, cpu: *const Cpu) -> bool {
    let number = opaque(unsafe { (*thread).row }.into()) as usize;
    // SAFETY: as the callers promise, and the index is in range.
    unsafe {
        number < VICTIMS
            && (*thread).generation == (*cpu).generation as u16
            && waiting_in(row_now(cpu, number)) != 0
    }
}

/// A thread is not counted for its process any more.
#[inline(always)]
unsafe fn forget_own(thread: *const Thread, cpu: *mut Cpu) {
    // SAFETY: as the callers promise.
    unsafe {
        let process = (*thread).process;
        if process != 0 {
            atomic::add(own_word(cpu, process), u64::MAX);
        }
    }
}

/// A waiting thread moves to another CPU: the time until now is blamed on the old one's.
///
/// # Safety
/// As [`begin`].
#[inline(always)]
pub unsafe fn moved(thread: *mut Thread, now: u64, number: u32) {
    // SAFETY: as the caller promises; every index is in range.
    unsafe {
        if (*thread).blame_ns != 0
            && span((*thread).ready_ns, now) >= PLACING_NS
            && let Some(old) = CPUS.get_ptr_mut((*thread).cpu.into())
            && let Some((row, _)) = row(old, (*thread).row)
        {
            let had_ns = present_ns(old, now);
            atomic::add(row, had_ns.wrapping_neg());
            (*old).owes = 1;
            (*old).awake = 1;
            if let Some(job) = maps::job((*thread).job) {
                keep(thread, job, now);
            }
        }
        forget(thread);
        (*thread).cpu = number as u16;
        if let Some(cpu) = CPUS.get_ptr_mut(number) {
            begin(thread, cpu, now);
        }
    }
}

/// Keeps the wait since [`begin`] for the story of the job, if it is long enough.
///
/// # Safety
/// `thread` and `job` are live values of their maps.
#[inline(always)]
pub unsafe fn keep(thread: *const Thread, job: *mut Job, now: u64) {
    // SAFETY: as the caller promises; every index is masked.
    unsafe {
        let from = (*thread).blame_ns;
        let ns = span(from, now);
        if from == 0 || ns < WORTH_TELLING_NS {
            return;
        }
        let Some(cpu) = CPUS.get_ptr((*thread).cpu.into()) else { return };
        let waits = (&raw mut (*job).waits).cast::<JobWait>();
        let count = (*job).wait_count;
        (*job).wait_count = count + 1;
        let mut n = index(count, JOB_WAITS);
        if count >= JOB_WAITS as u64 {
            // The shortest makes room.
            let mut least = ns << 3 | 4;
            for n in 0..JOB_WAITS {
                least = least.min((*waits.add(n)).ns << 3 | n as u64);
            }
            if least & 4 != 0 {
                return;
            }
            n = index(least, JOB_WAITS);
        }
        let wait = waits.add(n);
        (*wait).ns = ns;
        (*wait).cpu = (*thread).cpu.into();
        (*wait).from = (*thread).slice;
        (*wait).to = (*cpu).slice_count;
        (*wait).skip_ns = (*thread).skip_ns;
    }
}

/// Where the threads of a class that wait on the CPU are counted, and the row's bit.
#[inline(always)]
unsafe fn row(cpu: *mut Cpu, number: u8) -> Option<(*mut u64, u64)> {
    let number = opaque(number.into()) as usize;
    if number >= VICTIMS {
        return None;
    }
    // SAFETY: as the callers promise; the index is in range.
    unsafe { Some(((&raw mut (*cpu).rows).cast::<u64>().add(number), row_bit(number))) }
}

/// Puts into the story of a job for whom it waited, from the slices of the CPUs on which it did.
///
/// # Safety
/// `job` is a live value of its map.
#[inline(never)]
pub unsafe fn name_culprits(job: *mut Job, task: Task) {
    if BLAME_ON.load() == 0 {
        return;
    }
    // SAFETY: as the caller promises.
    unsafe {
        (*job).told_ns = 0;
        let mut telling = Telling { job, process: task.tgid().into() };
        let waits = (*job).wait_count.min(JOB_WAITS as u64) as u32;
        bpf_loop(waits, name_of_wait as *mut c_void, (&raw mut telling).cast(), 0);
        (*job).story.other_ns += span((*job).told_ns, (*job).story.wait_ns);
    }
}

/// What a turn of [`name_of_wait`] needs.
#[repr(C)]
struct Telling {
    job: *mut Job,
    process: u64,
}

/// The same for one of its waits.
#[inline(never)]
extern "C" fn name_of_wait(turn: u32, telling: *const Telling) -> u64 {
    // SAFETY: `bpf_loop` hands over what `name_culprits` gave it; every index is masked.
    unsafe {
        let Telling { job, process } = *telling;
        let wait = (&raw const (*job).waits).cast::<JobWait>().add(index(turn.into(), JOB_WAITS));
        let JobWait { cpu: number, from, to, skip_ns, .. } = *wait;
        let Some(cpu) = CPUS.get_ptr_mut(number) else { return 0 };
        // What is older was written over.
        if (*cpu).slice_count.wrapping_sub(from) > SLICES as u32 {
            return 0;
        }
        (*job).places_left = 0;
        (*job).skip_left_ns = skip_ns.into();
        let mut walk = Walk { cpu, job, from: from.into(), process };
        let slices = to.wrapping_sub(from).min(SLICES as u32);
        bpf_loop(slices, add_slice as *mut c_void, (&raw mut walk).cast(), 0);
        bpf_loop(PLACES as u32, name_place as *mut c_void, (&raw mut walk).cast(), 0);
        0
    }
}

/// What a turn of [`add_slice`] and of [`name_place`] needs.
#[repr(C)]
struct Walk {
    cpu: *mut Cpu,
    job: *mut Job,
    from: u64,
    process: u64,
}

/// Adds the slice of this turn to its place.
#[inline(never)]
extern "C" fn add_slice(turn: u32, walk: *const Walk) -> u64 {
    // SAFETY: `bpf_loop` hands over what `name_of_wait` gave it; every index is masked.
    unsafe {
        let Walk { cpu, job, from, .. } = *walk;
        let slices = (&raw const (*cpu).slices).cast::<u64>();
        let slice = slices.add(index(from + u64::from(turn), SLICES)).read_volatile();
        let place = within((slice >> 56) as usize);
        let ns = slice & 0x00ff_ffff_ffff_ffff;
        // What the first occupant had before the thread waited.
        let skipped = ns.min((*job).skip_left_ns);
        (*job).skip_left_ns -= skipped;
        let had = (&raw mut (*job).had_ns).cast::<u64>().add(place);
        let before = if (*job).places_left & (1 << place) == 0 { 0 } else { had.read_volatile() };
        had.write_volatile(before + ns - skipped);
        (*job).places_left |= 1 << place;
        0
    }
}

/// Tells who the next place is that is left. Returns 1 when none is.
#[inline(never)]
extern "C" fn name_place(_: u32, walk: *const Walk) -> u64 {
    // SAFETY: as for `add_slice`.
    unsafe {
        let Walk { cpu, job, process, .. } = *walk;
        let left = (*job).places_left;
        if left == 0 {
            return 1;
        }
        (*job).places_left = left & (left - 1);
        let mut n = within(lowest_bit(left) as usize);
        let ns = *(&raw const (*job).had_ns).cast::<u64>().add(n);
        if ns < WORTH_TELLING_NS {
            return 0;
        }
        if n < HASHED {
            let label = (&raw const (*cpu).labels).cast::<Label>().add(index(n as u64, HASHED));
            let its = (&raw const (*label).comm).cast::<u64>().read();
            if (*label).kind == CulpritKind::Class as u32 && its == process {
                n = place::WORKLOAD;
            }
        }
        (*job).told_ns += ns;
        note(cpu, job, n, ns);
        0
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
            let Label { kind, id, mut comm, .. } = *label;
            if kind == CulpritKind::Class as u32 {
                comm = [0; 16];
            }
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
        opaque(
            u64::from((*a).kind ^ (*b).kind)
                | u64::from((*a).id ^ (*b).id)
                | (a_name[0] ^ b_name[0])
                | (a_name[1] ^ b_name[1]),
        )
    }
}
