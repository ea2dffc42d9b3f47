//! Events as the rest of the agent sees them.

use downbeat_abi::{COMM_LEN, Event, EventKind, Miss};

/// Something that happened to a process or thread. Ids are those of the kernel's first pid
/// namespace; times are `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// Any process on the host now runs another program. All its other threads have ended. The
    /// thread that called exec is the main thread from now on; what the kernel programs knew of
    /// it under its old id (class slot) they know under the new one.
    Exec {
        /// Process, and its only thread.
        pid: u32,
        /// The calling thread's id until now; `pid` unless it was not the main thread.
        old_tid: u32,
        /// Parent process.
        parent: u32,
        /// When.
        time_ns: u64,
    },
    /// A managed thread, or a thread of a process whose main thread is managed, made a thread
    /// (`pid == parent_pid`) or a process (`tid == pid`).
    Fork {
        /// The new thread.
        tid: u32,
        /// Its process.
        pid: u32,
        /// The thread that made it.
        parent_tid: u32,
        /// That one's process.
        parent_pid: u32,
        /// The kernel programs already manage the new thread, with the class slot of the one
        /// that made it.
        inherited: bool,
        /// When.
        time_ns: u64,
    },
    /// A managed thread ended, and is not managed any more. The main thread's end is not its
    /// process's end while other threads live, or when one of them calls exec.
    Exit {
        /// Thread.
        tid: u32,
        /// Its process.
        pid: u32,
        /// When.
        time_ns: u64,
    },
    /// A managed thread has another name.
    Rename {
        /// Thread.
        tid: u32,
        /// Its process.
        pid: u32,
        /// The new name, at most 15 bytes; bytes that are not UTF-8 are replaced.
        name: String,
        /// When.
        time_ns: u64,
    },
    /// A job of a followed thread missed its deadline.
    Miss(Box<Miss>),
}

impl KernelEvent {
    /// Reads one record of the ring; nothing where it is of another size or kind.
    pub(super) fn decode(record: &[u8]) -> Option<Self> {
        if record.len() == size_of::<Miss>() {
            let miss: Miss = bytemuck::try_pod_read_unaligned(record).ok()?;
            let is_miss = EventKind::from_raw(miss.kind) == Some(EventKind::Miss);
            return is_miss.then(|| Self::Miss(Box::new(miss)));
        }
        let Event { time_ns, kind, tid, tgid, other_tid, other_tgid, inherited, comm } =
            bytemuck::try_pod_read_unaligned(record).ok()?;
        Some(match EventKind::from_raw(kind)? {
            EventKind::Exec => {
                Self::Exec { pid: tgid, old_tid: other_tid, parent: other_tgid, time_ns }
            }
            EventKind::Fork => Self::Fork {
                tid,
                pid: tgid,
                parent_tid: other_tid,
                parent_pid: other_tgid,
                inherited: inherited != 0,
                time_ns,
            },
            EventKind::Exit => Self::Exit { tid, pid: tgid, time_ns },
            EventKind::Rename => Self::Rename { tid, pid: tgid, name: name(&comm), time_ns },
            // Of another size.
            EventKind::Miss => return None,
        })
    }
}

fn name(comm: &[u8; COMM_LEN]) -> String {
    let len = comm.iter().position(|byte| *byte == 0).unwrap_or(COMM_LEN);
    String::from_utf8_lossy(&comm[..len]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_is_read_up_to_its_zero() {
        let mut comm = [0; COMM_LEN];
        comm[..6].copy_from_slice(b"audi\xff\0");
        comm[7] = b'x';
        let event = Event {
            time_ns: 5,
            kind: EventKind::Rename as u32,
            tid: 8,
            tgid: 7,
            comm,
            ..Event::default()
        };
        let expected =
            KernelEvent::Rename { tid: 8, pid: 7, name: "audi\u{fffd}".into(), time_ns: 5 };
        assert_eq!(KernelEvent::decode(bytemuck::bytes_of(&event)), Some(expected));
    }

    #[test]
    fn a_record_of_another_size_or_kind_is_nothing() {
        let event = Event { kind: 99, ..Event::default() };
        let bytes = bytemuck::bytes_of(&event);
        assert_eq!(KernelEvent::decode(bytes), None);
        assert_eq!(KernelEvent::decode(&bytes[..40]), None);
        assert_eq!(KernelEvent::decode(&[]), None);
    }
}
