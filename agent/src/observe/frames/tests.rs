//! The text, and the real socket between real processes.

use std::io::{IoSlice, Write};
use std::os::unix::net::UnixDatagram;

use nix::sys::socket::{ControlMessage, sendmsg};
use proptest::prelude::*;

use super::*;

fn lines(bytes: &[u8]) -> (Vec<(Option<u64>, String, MarkKind)>, u64) {
    let mut taken = Vec::new();
    let garbage = datagram::parse(bytes, |time, id, kind| {
        taken.push((time, id.to_owned(), kind));
        true
    });
    (taken, garbage)
}

#[test]
fn one_datagram_may_have_several_marks() {
    let begin = |deadline_ns| MarkKind::Begin { deadline_ns };
    let (taken, garbage) = lines(
        b"FRAME_BEGIN=1\nMONOTONIC_NS=500\nDEADLINE_NS=9\nFRAME_BEGIN=left eye\nFRAME_END=1\n",
    );
    assert_eq!(
        taken,
        [
            (None, "1".into(), begin(None)),
            (Some(500), "left eye".into(), begin(Some(9))),
            (Some(500), "1".into(), MarkKind::End),
        ]
    );
    assert_eq!(garbage, 0);
}

#[test]
fn what_is_no_mark_is_counted_and_costs_only_itself() {
    let long = "x".repeat(MAX_ID + 1);
    for bad in [
        "FRAME_BEGIN",
        "FRAME_BEGIN=",
        "FRAME_END=\t",
        "FRAME_END=ü",
        "frame_end=1",
        " FRAME_END=1",
        "FRAME_END=1\r",
        "MONOTONIC_NS=+5",
        "MONOTONIC_NS=",
        "MONOTONIC_NS=99999999999999999999",
        "DEADLINE_NS=0",
        "STATUS=fine",
        &format!("FRAME_BEGIN={long}"),
    ] {
        let (taken, garbage) = lines(format!("{bad}\nFRAME_END=1").as_bytes());
        assert_eq!((taken.len(), garbage), (1, 1), "{bad:?}");
    }
    assert_eq!(lines(b"FRAME_END=\xff\xfe"), (Vec::new(), 1));
    assert_eq!(lines(b""), (Vec::new(), 0));
    assert_eq!(lines(format!("FRAME_END={}", &long[1..]).as_bytes()).1, 0);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (taken, garbage) = lines(&bytes);
        let count = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
        prop_assert!(taken.len() as u64 + garbage <= count as u64);
    }

    #[test]
    fn any_name_that_is_allowed_comes_through(id in "[ -~]{1,64}", time in any::<u64>()) {
        let (taken, garbage) = lines(format!("MONOTONIC_NS={time}\nFRAME_END={id}").as_bytes());
        prop_assert_eq!(taken, vec![(Some(time), id, MarkKind::End)]);
        prop_assert_eq!(garbage, 0);
    }
}

struct Pair {
    socket: FrameSocket,
    sender: UnixDatagram,
    _folder: tempfile::TempDir,
}

fn pair() -> Pair {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(SOCKET_NAME);
    let socket = FrameSocket::bind(&path).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.connect(&path).unwrap();
    sender.set_nonblocking(true).unwrap();
    Pair { socket, sender, _folder: folder }
}

fn drain(socket: &mut FrameSocket) -> Vec<Mark> {
    let mut marks = Vec::new();
    socket.drain(&mut marks).unwrap();
    marks
}

fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap())
}

#[test]
fn a_mark_has_its_senders_pid_and_the_time_at_which_it_was_sent() {
    let Pair { mut socket, sender, .. } = pair();
    let before = monotonic_ns();
    sender.send(b"FRAME_BEGIN=a").unwrap();
    let after = monotonic_ns();
    // The time is the sender's, however late the mark is read.
    std::thread::sleep(std::time::Duration::from_millis(30));
    let marks = drain(&mut socket);
    assert_eq!(marks.len(), 1);
    assert_eq!(marks[0].pid, std::process::id());
    // The two clocks may be read a little apart.
    let slack = 1_000_000;
    let sent = before - slack..=after + slack;
    assert!(sent.contains(&marks[0].time_ns), "{before} {after} {}", marks[0].time_ns);
}

#[test]
fn a_time_that_the_sender_tells_holds_unless_it_cannot_be() {
    let Pair { mut socket, sender, .. } = pair();
    let now = monotonic_ns();
    let told = |ns: u64| format!("MONOTONIC_NS={ns}\nFRAME_END=a");
    for ns in [now - 5_000_000, now + 60_000_000_000, now - 60_000_000_000] {
        sender.send(told(ns).as_bytes()).unwrap();
    }
    let marks = drain(&mut socket);
    assert_eq!(marks.iter().map(|mark| mark.time_ns).collect::<Vec<_>>(), [now - 5_000_000]);
    assert_eq!(socket.counters(), FrameCounters { datagrams: 3, marks: 1, garbage: 2, refused: 0 });
}

#[test]
fn a_datagram_that_is_cut_off_is_garbage_as_a_whole() {
    let Pair { mut socket, sender, .. } = pair();
    let mut long = b"FRAME_END=a\n".repeat(MAX_DATAGRAM / 12 + 1);
    sender.send(&long).unwrap();
    long.truncate(MAX_DATAGRAM / 12 * 12);
    sender.send(&long).unwrap();
    assert_eq!(drain(&mut socket).len(), MAX_DATAGRAM / 12);
    assert_eq!(socket.counters().garbage, 1);
}

#[test]
fn descriptors_that_are_sent_along_do_not_stay() {
    let Pair { mut socket, sender, .. } = pair();
    let gift = tempfile::tempfile().unwrap();
    let held = |fd: &std::fs::File| {
        use std::os::unix::fs::MetadataExt;
        let inode = fd.metadata().unwrap().ino();
        // Other tests open descriptors at the same time, so only this file's are counted.
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .flatten()
            .filter(|entry| std::fs::metadata(entry.path()).is_ok_and(|meta| meta.ino() == inode))
            .count()
    };
    let before = held(&gift);
    for _ in 0..5 {
        let descriptors = [gift.as_raw_fd(); 3];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let text = [IoSlice::new(b"FRAME_END=a")];
        sendmsg::<()>(sender.as_raw_fd(), &text, &rights, MsgFlags::empty(), None).unwrap();
    }
    sender.send(b"FRAME_END=a").unwrap();
    assert_eq!(drain(&mut socket).len(), 1);
    assert_eq!(socket.counters().garbage, 5);
    assert_eq!(held(&gift), before);
}

#[test]
fn a_flood_from_one_process_is_bounded_and_does_not_hold_up_its_sender() {
    let Pair { mut socket, sender, .. } = pair();
    let (mut sent, mut taken, mut waits) = (0_u64, 0_u64, true);
    let start = monotonic_ns();
    // All within one window, unless this machine stands still.
    while waits && sent < 3 * u64::from(WINDOW_ALL) {
        while sender.send(b"FRAME_BEGIN=a").is_ok() {
            sent += 1;
        }
        let mut marks = Vec::new();
        waits = socket.drain(&mut marks).unwrap();
        taken += marks.len() as u64;
    }
    let windows = (monotonic_ns() - start) / WINDOW_NS + 1;
    assert!(taken <= windows * u64::from(WINDOW_EACH), "{taken} in {windows} windows");
    let counters = socket.counters();
    assert_eq!(counters.datagrams, counters.marks + counters.refused);
    assert!(counters.datagrams <= windows * u64::from(WINDOW_ALL));
    if !waits {
        std::thread::sleep(std::time::Duration::from_nanos(WINDOW_NS));
        assert!(socket.drain(&mut Vec::new()).unwrap(), "a new window, and nothing spent of it");
    }
}

#[test]
fn anyone_may_send_and_the_file_comes_and_goes_with_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(SOCKET_NAME);
    let first = FrameSocket::bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    // As a killed agent leaves it.
    std::mem::forget(first);
    let second = FrameSocket::bind(&path).unwrap();
    drop(second);
    assert!(!path.exists());
}

#[test]
fn what_is_not_a_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(SOCKET_NAME);
    std::fs::File::create(&path).unwrap().write_all(b"mine").unwrap();
    let error = FrameSocket::bind(&path).unwrap_err();
    assert!(error.to_string().contains("bind"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    let long = folder.path().join("x".repeat(200));
    assert!(matches!(FrameSocket::bind(&long), Err(FrameSocketError::TooLong { .. })));
}

#[test]
fn a_stamp_from_before_the_clock_was_set_is_not_believed() {
    let now = Now { monotonic_ns: 100_000_000_000, realtime_ns: 1_000_000_000_000 };
    assert_eq!(now.monotonic_of(now.realtime_ns - 7), 100_000_000_000 - 7);
    assert_eq!(now.monotonic_of(now.realtime_ns + 7), 100_000_000_000);
    assert_eq!(now.monotonic_of(0), 100_000_000_000);
}
