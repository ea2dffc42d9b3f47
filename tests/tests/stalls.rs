//! Sleeps within a job, told apart by what the thread slept for. Needs root and a file on a disk.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use downbeat_abi::Story;
use downbeat_agent::observe::kernel::{KernelEvent, KernelProbes, ProbeOptions};
use downbeat_agent::roots::Roots;
use nix::sys::resource::{UsageWho, getrusage};

/// Bytes of the file that is read piece by piece.
const LEN: usize = 8 << 20;

/// Bytes read in one job.
const PIECE: usize = 256 << 10;

/// The stories of the jobs of a thread that sleeps for 10 ms and then does `work`, `LEN / PIECE`
/// times; nothing where the kernel's view cannot be had.
fn stories(work: impl FnMut(usize) + Send + 'static) -> Option<Vec<Story>> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return None;
    }
    let mut probes = KernelProbes::load(&Roots::default(), &ProbeOptions::default()).unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let mut work = work;
    let thread = std::thread::spawn(move || {
        send.send(nix::unistd::gettid().as_raw().unsigned_abs()).unwrap();
        wait.recv().unwrap();
        for n in 0..LEN / PIECE {
            std::thread::sleep(Duration::from_millis(10));
            work(n);
        }
        // The last job is told at the release after it.
        std::thread::sleep(Duration::from_millis(10));
    });
    let tid = receive.recv().unwrap();
    probes.manage(tid, 0).unwrap();
    probes.set_deadline(tid, 1);
    go.send(()).unwrap();
    thread.join().unwrap();
    let mut events = Vec::new();
    probes.drain(&mut events);
    let stories = events.into_iter().filter_map(|event| match event {
        KernelEvent::Miss(miss) if miss.tid == tid => Some(miss.story),
        _ => None,
    });
    Some(stories.collect())
}

/// A file beside the test's own program, which is on a disk wherever programs are built.
fn file() -> tempfile::NamedTempFile {
    let folder = std::env::current_exe().unwrap();
    let mut file = tempfile::NamedTempFile::new_in(folder.parent().unwrap()).unwrap();
    file.write_all(&vec![7; LEN]).unwrap();
    file.as_file().sync_all().unwrap();
    file
}

/// How often this thread has gone to sleep by its own doing. A fast disk may have what is wanted
/// before the thread sleeps for it, more so where the hypervisor takes its CPU meanwhile: only one
/// that slept has waited.
fn sleeps() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).unwrap().voluntary_context_switches()
}

fn forget(file: &File) {
    // SAFETY: the descriptor is open.
    let result = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(result, 0);
}

#[test]
fn a_read_from_a_disk_counts_as_waiting_for_a_disk() {
    let kept = file();
    let mut file = match File::options().read(true).custom_flags(libc::O_DIRECT).open(kept.path()) {
        Ok(file) => file,
        Err(error) => return println!("skipped: O_DIRECT here: {error}"),
    };
    let slept = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&slept);
    let told = stories(move |n| {
        let mut bytes = vec![0; PIECE + 4096];
        let start = bytes.as_ptr().align_offset(4096);
        file.seek(SeekFrom::Start((n * PIECE) as u64)).unwrap();
        let before = sleeps();
        file.read_exact(&mut bytes[start..start + PIECE]).unwrap();
        count.fetch_add(usize::from(sleeps() > before), Ordering::Relaxed);
        assert_eq!(bytes[start], 7);
    });
    let Some(told) = told else { return };
    let waited = told.iter().filter(|story| story.io_ns > 0).count();
    let slept = slept.load(Ordering::Relaxed);
    if slept == 0 {
        return println!("skipped: no read of this disk takes long enough to sleep");
    }
    assert!(
        waited * 4 >= slept * 3 && waited <= slept,
        "{waited} of {} jobs waited for the disk, {slept} slept in the read",
        told.len()
    );
    assert!(told.iter().all(|story| story.faults == 0), "{told:?}");
}

#[test]
fn a_page_that_must_be_read_counts_as_a_major_fault() {
    let kept = file();
    let file = kept.reopen().unwrap();
    // SAFETY: a new mapping of an open file, which nobody makes shorter while it is mapped.
    let map = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            LEN,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    assert_ne!(map, libc::MAP_FAILED);
    // SAFETY: as above: no page of it is read ahead.
    unsafe { libc::madvise(map, LEN, libc::MADV_RANDOM) };
    forget(&file);
    let start = map as usize;
    let slept = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&slept);
    let told = stories(move |n| {
        let before = sleeps();
        // SAFETY: within the mapping, which lives until the test's end.
        let byte = unsafe { ((start + n * PIECE) as *const u8).read_volatile() };
        count.fetch_add(usize::from(sleeps() > before), Ordering::Relaxed);
        assert_eq!(byte, 7);
    });
    let Some(told) = told else { return };
    let faulted = told.iter().filter(|story| story.faults > 0 && story.fault_ns > 0).count();
    let slept = slept.load(Ordering::Relaxed);
    if slept == 0 {
        return println!("skipped: no page of this disk takes long enough to sleep");
    }
    assert!(
        faulted * 4 >= slept * 3 && faulted <= slept,
        "{faulted} of {} jobs faulted, {slept} slept for a page: {told:?}",
        told.len()
    );
    let disk = told.iter().filter(|story| story.io_ns > story.fault_ns).count();
    assert!(disk * 4 < told.len(), "{disk} of {} jobs count as disk", told.len());
}
