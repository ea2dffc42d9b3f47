//! Channels over real sockets, with peers that keep to the language and peers that do not.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::Bytes;
use downbeat_link::{
    Answer, DataType, Done, Hello, INLINE, Infer, LinkError, MAX_MESSAGE, ModelNumber, Package,
    RequestNumber, Sender, Tensor, ToPool, ToWorker, VERSION, Work, pair, pool_end, worker_end,
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

fn tensor(length: usize) -> Tensor {
    let (name, datatype) = ("x".to_owned(), DataType::Uint8);
    Tensor { name, datatype, shape: vec![length as u64], data: vec![7; length].into() }
}

fn infer(tensors: Vec<Tensor>) -> ToWorker<Package> {
    let requests = vec![Work {
        id: RequestNumber(7),
        deadline_ns: None,
        outputs: vec![],
        sequence: None,
        inputs: Package::new(tensors).unwrap(),
    }];
    ToWorker::Infer(Infer { model: ModelNumber(1), requests })
}

fn hello() -> ToPool<Package> {
    let (version, pid) = (VERSION, std::process::id());
    ToPool::Hello(Hello { version, pid, name: "test".into(), engines: vec!["tract".into()] })
}

/// Sends what no sender of ours would.
fn send_raw(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(files.is_empty() || control.push(SendAncillaryMessage::ScmRights(files)));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
}

/// Descriptors of memory files with this name; other tests run in this process too.
fn open_descriptors(name: &str) -> usize {
    let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = all.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().contains(name)).count()
}

/// The bytes that our sender would send for one large tensor.
fn bytes_of_a_large_tensor() -> Vec<u8> {
    let (ours, theirs) = pair().unwrap();
    let (sender, _) = pool_end(ours).unwrap();
    sender.send(&infer(vec![tensor(INLINE + 1)])).unwrap();
    let mut bytes = vec![0; MAX_MESSAGE];
    // Without room for descriptors: the kernel closes them.
    let (length, _) =
        rustix::net::recv(&theirs, bytes.as_mut_slice(), rustix::net::RecvFlags::empty()).unwrap();
    bytes.truncate(length);
    bytes
}

#[test]
fn tensors_of_all_sizes_arrive_as_they_were() {
    let (pool, worker) = pair().unwrap();
    let (to_worker, _from_worker) = pool_end(pool).unwrap();
    let (_to_pool, mut from_pool) = worker_end(worker).unwrap();
    for length in [0, 1, INLINE, INLINE + 1, 307_200, 5 << 20] {
        to_worker.send(&infer(vec![tensor(length), tensor(3)])).unwrap();
        let Some(ToWorker::Infer(infer)) = from_pool.receive().unwrap() else { panic!() };
        assert_eq!(infer.requests[0].inputs, [tensor(length), tensor(3)]);
    }
}

#[test]
fn a_package_can_be_sent_again_and_outlives_the_channel() {
    let message = infer(vec![tensor(100_000)]);
    let mut kept = Vec::<Bytes>::new();
    for _ in 0..2 {
        let (pool, worker) = pair().unwrap();
        let (to_worker, _from_worker) = pool_end(pool).unwrap();
        let (_to_pool, mut from_pool) = worker_end(worker).unwrap();
        to_worker.send(&message).unwrap();
        let Some(ToWorker::Infer(infer)) = from_pool.receive().unwrap() else { panic!() };
        kept.extend(infer.requests[0].inputs.iter().map(|tensor| tensor.data.clone()));
    }
    drop(message);
    assert!(kept.iter().flatten().all(|byte| *byte == 7));
}

#[test]
fn both_ends_notice_that_the_other_is_gone() {
    let (pool, worker) = pair().unwrap();
    let (to_worker, mut from_worker) = pool_end(pool).unwrap();
    let (to_pool, from_pool) = worker_end(worker).unwrap();
    to_pool.send(&hello()).unwrap();
    drop((to_pool, from_pool));
    assert!(matches!(from_worker.receive(), Ok(Some(ToPool::Hello(_)))));
    assert!(matches!(from_worker.receive(), Ok(None)));
    assert!(matches!(from_worker.try_receive(), Err(LinkError::Closed)));
    assert!(matches!(to_worker.send(&ToWorker::Drain), Err(LinkError::Closed)));
}

#[test]
fn nothing_is_taken_where_nothing_came() {
    let (pool, worker) = pair().unwrap();
    let (to_worker, _from_worker) = pool_end(pool).unwrap();
    let (_to_pool, mut from_pool) = worker_end(worker).unwrap();
    assert!(matches!(from_pool.try_receive(), Ok(None)));
    to_worker.send(&ToWorker::Cancel(RequestNumber(3))).unwrap();
    assert_eq!(from_pool.try_receive().unwrap(), Some(ToWorker::Cancel(RequestNumber(3))));
}

#[test]
fn messages_of_several_threads_do_not_mix() {
    let (pool, worker) = pair().unwrap();
    let (_to_worker, mut from_worker) = pool_end(pool).unwrap();
    let (to_pool, _from_pool) = worker_end(worker).unwrap();
    let answers = |sender: Sender<ToPool<Package>>, first: u64| {
        std::thread::spawn(move || {
            for id in first..first + 50 {
                let outputs = Package::new(vec![tensor(id as usize * 100)]).unwrap();
                let answers = vec![Answer { id: RequestNumber(id), outputs }];
                let done = Done { answers, started_ns: 1, wall_ns: 2, cpu_ns: 3 };
                sender.send(&ToPool::Done(done)).unwrap();
            }
        })
    };
    let threads = [answers(to_pool.clone(), 0), answers(to_pool.clone(), 1000)];
    for _ in 0..100 {
        let Some(ToPool::Done(done)) = from_worker.receive().unwrap() else { panic!() };
        let [answer] = done.answers.as_slice() else { panic!() };
        assert_eq!(answer.outputs, [tensor(answer.id.0 as usize * 100)]);
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn what_is_no_message_is_refused_and_leaks_no_descriptor() {
    let (pool, worker) = pair().unwrap();
    let (_to_worker, mut from_worker) = pool_end(pool).unwrap();
    let file = memfd_create("leak", MemfdFlags::CLOEXEC).unwrap();

    let headless = [b"dbwk", &VERSION.to_le_bytes()[..], b"\0\0\xff\0\0\0"].concat();

    type Expected = fn(&LinkError) -> bool;
    let messages: [(&[u8], usize, Expected); 4] = [
        (b"GET / HTTP/1.1\r\n", 0, |error| matches!(error, LinkError::Foreign)),
        (b"dbwk", 3, |error| matches!(error, LinkError::Truncated(4))),
        (headless.as_slice(), 253, |error| matches!(error, LinkError::Truncated(12))),
        (&[0; MAX_MESSAGE + 1], 253, |error| matches!(error, LinkError::Oversized)),
    ];
    for (bytes, files, expected) in messages {
        send_raw(&worker, bytes, &vec![file.as_fd(); files]);
        let error = from_worker.receive().unwrap_err();
        assert!(expected(&error), "{error}");
        assert_eq!(open_descriptors("memfd:leak"), 1);
    }
}

#[test]
fn descriptors_that_are_no_sealed_memory_are_refused() {
    let (pool, worker) = pair().unwrap();
    let (_to_pool, mut from_pool) = worker_end(worker).unwrap();
    let bytes = bytes_of_a_large_tensor();
    let memory = |seals: SealFlags, length: u64| {
        let file = memfd_create("test", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, length).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file
    };
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    let length = INLINE as u64 + 1;
    let refusal = |from_pool: &mut downbeat_link::Receiver<_>, files: &[OwnedFd]| {
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        send_raw(&pool, &bytes, &files);
        from_pool.receive()
    };

    let good = refusal(&mut from_pool, &[memory(all, length)]);
    assert!(matches!(good, Ok(Some(ToWorker::Infer(_)))), "{good:?}");
    for seals in [SealFlags::empty(), all - SealFlags::WRITE, all - SealFlags::SHRINK] {
        let error = refusal(&mut from_pool, &[memory(seals, length)]);
        assert!(matches!(error, Err(LinkError::Unsealed { .. })), "{error:?}");
    }
    let error = refusal(&mut from_pool, &[memory(all, length - 1)]);
    assert!(matches!(error, Err(LinkError::Length { .. })), "{error:?}");
    let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let error = refusal(&mut from_pool, &[null]);
    assert!(matches!(error, Err(LinkError::NotMemory)), "{error:?}");
    let error = refusal(&mut from_pool, &[]);
    assert!(matches!(error, Err(LinkError::Descriptors { is: 0, wanted: 1 })), "{error:?}");
    let error = refusal(&mut from_pool, &[memory(all, length), memory(all, length)]);
    assert!(matches!(error, Err(LinkError::Descriptors { is: 2, wanted: 1 })), "{error:?}");
}

#[cfg(feature = "async")]
mod asynchronous {
    use super::*;
    use downbeat_link::async_pool_end;

    #[tokio::test]
    async fn a_full_socket_is_waited_for() {
        const MANY: u64 = 2000;
        let (pool, worker) = pair().unwrap();
        let (to_worker, mut from_worker) = async_pool_end(pool).unwrap();
        let worker = std::thread::spawn(move || {
            let (to_pool, mut from_pool) = worker_end(worker).unwrap();
            let mut echoed = 0;
            while let Some(message) = from_pool.receive().unwrap() {
                let ToWorker::Infer(infer) = message else { return echoed };
                let answers = infer.requests.into_iter().map(|request| Answer {
                    id: request.id,
                    outputs: Package::new(request.inputs).unwrap(),
                });
                let answers = answers.collect();
                let done = Done { answers, started_ns: 0, wall_ns: 0, cpu_ns: 0 };
                to_pool.send(&ToPool::Done(done)).unwrap();
                echoed += 1;
            }
            echoed
        });
        let sending = tokio::spawn(async move {
            let message = infer(vec![tensor(INLINE)]);
            for _ in 0..MANY {
                to_worker.send(&message).await.unwrap();
            }
            to_worker.send(&ToWorker::Drain).await.unwrap();
            to_worker
        });
        for _ in 0..MANY {
            let Ok(Some(ToPool::Done(done))) = from_worker.receive().await else { panic!() };
            assert_eq!(done.answers[0].outputs, [tensor(INLINE)]);
        }
        assert!(matches!(from_worker.receive().await, Ok(None)));
        let to_worker = sending.await.unwrap();
        assert!(matches!(to_worker.send(&ToWorker::Drain).await, Err(LinkError::Closed)));
        assert_eq!(worker.join().unwrap(), MANY);
    }

    #[tokio::test]
    async fn without_room_nothing_is_sent_at_once() {
        let (pool, _worker) = pair().unwrap();
        let (to_worker, _from_worker) = async_pool_end(pool).unwrap();
        let mut sent = 0_u32;
        while to_worker.try_send(&ToWorker::Drain).unwrap() {
            sent += 1;
        }
        assert!(sent > 0);
    }
}
