use std::path::PathBuf;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;
use crate::message::*;
use crate::region::{Region, SharedInput};
use crate::tensor::TensorSpec;

fn tensor(length: usize) -> Tensor {
    let data = (0..length).map(|i| (i % 251) as u8).collect::<Vec<_>>();
    Tensor {
        name: "x".into(),
        datatype: DataType::Uint8,
        shape: vec![length as u64],
        data: data.into(),
    }
}

fn work(id: u64, inputs: Vec<Tensor>) -> Work<Vec<Tensor>> {
    let id = RequestNumber(id);
    Work { id, deadline_ns: Some(id.0), outputs: vec![], sequence: None, inputs }
}

/// What is sent for what comes out.
fn packed(message: ToWorker) -> ToWorker<Package> {
    match message {
        ToWorker::Load(load) => ToWorker::Load(load),
        ToWorker::Unload(model) => ToWorker::Unload(model),
        ToWorker::Cancel(id) => ToWorker::Cancel(id),
        ToWorker::Drain => ToWorker::Drain,
        ToWorker::Infer(Infer { model, requests }) => ToWorker::Infer(Infer {
            model,
            requests: requests
                .into_iter()
                .map(|Work { id, deadline_ns, outputs, sequence, inputs }| Work {
                    id,
                    deadline_ns,
                    outputs,
                    sequence,
                    inputs: Package::new(inputs).unwrap(),
                })
                .collect(),
        }),
    }
}

fn infer(requests: Vec<Work>) -> ToWorker {
    ToWorker::Infer(Infer { model: ModelNumber(3), requests })
}

fn owned(frame: &Frame<'_>) -> Vec<OwnedFd> {
    frame.descriptors().iter().map(|file| file.try_clone_to_owned().unwrap()).collect()
}

fn there_and_back(message: &ToWorker<Package>) -> (ToWorker, usize, usize) {
    let frame = encode(message).unwrap();
    assert!(frame.bytes.len() <= MAX_MESSAGE);
    let files = owned(&frame);
    let (length, count) = (frame.bytes.len(), files.len());
    (decode::<ToWorker<Package>>(&frame.bytes, files).unwrap(), length, count)
}

#[test]
fn small_tensors_travel_in_the_message_and_large_ones_in_one_file_a_request() {
    let sent = infer(vec![
        work(1, vec![tensor(10), tensor(INLINE), tensor(0)]),
        work(2, vec![tensor(INLINE + 1), tensor(100), tensor(100_000)]),
        work(3, vec![]),
        work(4, vec![tensor(1 << 20)]),
    ]);
    let (came, length, files) = there_and_back(&packed(sent.clone()));
    assert_eq!(came, sent);
    assert_eq!(files, 2);
    assert!((INLINE + 110..INLINE + 400).contains(&length), "{length}");
}

#[test]
fn small_tensors_that_do_not_fit_in_a_message_together_spill_into_a_file() {
    let many = (0..MAX_REQUESTS as u64).map(|id| work(id, vec![tensor(INLINE)])).collect();
    let sent = infer(many);
    let (came, length, files) = there_and_back(&packed(sent.clone()));
    assert_eq!(came, sent);
    assert_eq!(files, 1);
    assert!(length < 4096, "{length}");

    let mixed = (0..MAX_REQUESTS as u64)
        .map(|id| work(id, vec![tensor(INLINE + 1 + id as usize), tensor(INLINE - 1)]))
        .collect();
    let sent = infer(mixed);
    let (came, _, files) = there_and_back(&packed(sent.clone()));
    assert_eq!(came, sent);
    assert_eq!(files, MAX_REQUESTS + 1);
}

#[test]
fn too_much_for_one_message_is_refused_before_it_is_sent() {
    let many = (0..=MAX_REQUESTS as u64).map(|id| work(id, vec![])).collect();
    let message = packed(infer(many));
    assert!(matches!(encode(&message), Err(LinkError::Requests(65))));

    let long = Tensor { name: "x".repeat(MAX_MESSAGE), ..tensor(1) };
    let message = packed(infer(vec![work(1, vec![long])]));
    assert!(matches!(encode(&message), Err(LinkError::TooLong(_))));

    let tensors = vec![tensor(1); MAX_TENSORS + 1];
    assert!(matches!(Package::new(tensors), Err(LinkError::Tensors(257))));

    let wrong = Tensor { shape: vec![2], ..tensor(1) };
    let error = Package::new(vec![wrong]).unwrap_err().to_string();
    assert_eq!(error, "`x` has 1 bytes; UINT8 with shape [2] has 2");
}

/// The bytes of a message whose packages say what `heads` says.
fn forged(heads: Vec<PackageHead>, inline: &[u8], flags: u16) -> Vec<u8> {
    let requests = heads
        .into_iter()
        .map(|inputs| Work {
            id: RequestNumber(1),
            deadline_ns: None,
            outputs: vec![],
            sequence: None,
            inputs,
        })
        .collect();
    let head = ToWorker::Infer(Infer { model: ModelNumber(1), requests });
    let head = postcard::to_stdvec(&head).unwrap();
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend((head.len() as u32).to_le_bytes());
    bytes.extend(head);
    bytes.extend(inline);
    bytes
}

fn says(length: u64, place: Place) -> TensorHead {
    TensorHead { name: "x".into(), datatype: DataType::Uint8, shape: vec![length], length, place }
}

fn one(tensor: TensorHead) -> Vec<PackageHead> {
    vec![PackageHead { tensors: vec![tensor] }]
}

fn refusal(bytes: &[u8], files: Vec<OwnedFd>) -> LinkError {
    decode::<ToWorker<Package>>(bytes, files).unwrap_err()
}

fn sealed(length: usize) -> OwnedFd {
    shared::seal([vec![1; length].as_slice()].into_iter()).unwrap()
}

#[test]
fn a_prefix_that_is_not_ours_is_refused() {
    let good = forged(vec![], &[], 0);
    assert!(decode::<ToWorker<Package>>(&good, vec![]).is_ok());
    for length in 0..PREFIX {
        assert!(matches!(refusal(&good[..length], vec![]), LinkError::Truncated(_)));
    }
    let foreign = [b"GET ", &good[4..]].concat();
    assert!(matches!(refusal(&foreign, vec![]), LinkError::Foreign));
    let newer = [&good[..4], &(VERSION + 1).to_le_bytes(), &good[6..]].concat();
    let error = refusal(&newer, vec![]).to_string();
    let named = format!("version {} of the channel's language", VERSION + 1);
    assert!(error.contains(&named), "{error}");
    let long = [&good[..8], &u32::MAX.to_le_bytes(), &good[PREFIX..]].concat();
    assert!(matches!(refusal(&long, vec![]), LinkError::Truncated(_)));
}

#[test]
fn bytes_that_do_not_add_up_are_refused() {
    let more = forged(one(says(5, Place::Message)), b"1234", 0);
    assert!(matches!(refusal(&more, vec![]), LinkError::Inline { is: 4, wanted: 5 }));
    let less = forged(one(says(3, Place::Message)), b"1234", 0);
    assert!(matches!(refusal(&less, vec![]), LinkError::Inline { is: 4, wanted: 3 }));
    let shape = TensorHead { shape: vec![2, 3], ..says(4, Place::Message) };
    assert!(matches!(refusal(&forged(one(shape), b"1234", 0), vec![]), LinkError::Tensor(_)));
    let behind = [forged(vec![], &[], 0), vec![0]].concat();
    assert!(matches!(refusal(&behind, vec![]), LinkError::Inline { is: 1, wanted: 0 }));
}

#[test]
fn descriptors_that_do_not_add_up_are_refused() {
    let without = forged(one(says(20_000, Place::File)), &[], 0);
    assert!(matches!(refusal(&without, vec![]), LinkError::Descriptors { is: 0, wanted: 1 }));
    let two = vec![sealed(20_000), sealed(20_000)];
    assert!(matches!(refusal(&without, two), LinkError::Descriptors { is: 2, wanted: 1 }));
    let none = forged(one(says(1, Place::Message)), b"1", 0);
    let one_too_many = refusal(&none, vec![sealed(1)]);
    assert!(matches!(one_too_many, LinkError::Descriptors { is: 1, wanted: 0 }));
    let spilled = forged(one(says(1, Place::Message)), &[], SPILLED);
    assert!(matches!(refusal(&spilled, vec![]), LinkError::Descriptors { is: 0, wanted: 1 }));
}

#[test]
fn huge_lengths_are_refused_before_anything_is_mapped() {
    for length in [MAX_PACKAGE + 1, u64::MAX / 2, u64::MAX] {
        for place in [Place::File, Place::Message, Place::Region { number: 0, offset: 0 }] {
            let error = refusal(&forged(one(says(length, place)), b"", 0), vec![sealed(1)]);
            assert!(matches!(error, LinkError::TooLarge(is) if is == length), "{error}");
        }
    }
    let halves =
        PackageHead { tensors: vec![says(MAX_PACKAGE, Place::File), says(1, Place::File)] };
    let error = refusal(&forged(vec![halves], b"", 0), vec![sealed(1)]);
    assert!(matches!(error, LinkError::TooLarge(_)), "{error}");
    let short = refusal(&forged(one(says(MAX_PACKAGE, Place::File)), b"", 0), vec![sealed(20_000)]);
    assert!(matches!(short, LinkError::Length { is: 20_000, .. }), "{short}");
    let flat = PackageHead { tensors: vec![says(0, Place::Message); MAX_TENSORS + 1] };
    assert!(matches!(refusal(&forged(vec![flat], b"", 0), vec![]), LinkError::Tensors(257)));
    let deep = TensorHead { shape: vec![1; 17], ..says(1, Place::Message) };
    assert!(matches!(refusal(&forged(one(deep), b"1", 0), vec![]), LinkError::Tensor(_)));
    let many = vec![PackageHead::default(); MAX_REQUESTS + 1];
    assert!(matches!(refusal(&forged(many, b"", 0), vec![]), LinkError::Requests(65)));
}

/// A client's file.
fn of_client(bytes: &[u8]) -> Arc<OwnedFd> {
    let file = rustix::fs::memfd_create("client", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    assert_eq!(rustix::io::write(&file, bytes), Ok(bytes.len()));
    Arc::new(file)
}

fn in_region(name: &str, file: &Arc<OwnedFd>, offset: u64, length: u64) -> SharedInput {
    let region = Region { file: Arc::clone(file), offset, length };
    SharedInput { name: name.into(), datatype: DataType::Uint8, shape: vec![length], region }
}

#[test]
fn what_lies_with_the_client_is_read_at_the_other_end() {
    let (one, two) = (of_client(b"abcdef"), of_client(b"gh"));
    let mut shared =
        vec![in_region("a", &one, 1, 2), in_region("b", &two, 0, 2), in_region("c", &one, 3, 3)];
    let package = Package::with(vec![tensor(20_000)], &shared).unwrap();
    assert_eq!(package.bytes(), 20_000 + 2 + 2 + 3);
    shared.push(in_region("third file", &of_client(b"ijk"), 1, 2));
    assert!(matches!(Package::with(vec![], &shared), Err(LinkError::Regions(3))));
    let message = ToWorker::Infer(Infer {
        model: ModelNumber(1),
        requests: vec![Work {
            id: RequestNumber(1),
            deadline_ns: None,
            outputs: vec![],
            sequence: None,
            inputs: package,
        }],
    });
    let frame = encode(&message).unwrap();
    assert_eq!(frame.descriptors().len(), 3, "the large tensor's and two of the client's");
    rustix::fs::ftruncate(&two, 1).unwrap();
    let came = decode::<ToWorker<Package>>(&frame.bytes, owned(&frame)).unwrap();
    let ToWorker::Infer(came) = came else { panic!("{came:?}") };
    let found: Vec<(&str, &[u8])> =
        came.requests[0].inputs[1..].iter().map(|it| (it.name.as_str(), &it.data[..])).collect();
    let wanted: [(&str, &[u8]); 3] = [("a", b"bc"), ("b", b"g"), ("c", b"def")];
    assert_eq!(found, wanted);
    let error = came.requests[0].inputs[2].check().unwrap_err().to_string();
    assert_eq!(error, "`b` has 1 bytes; UINT8 with shape [2] has 2");
}

#[test]
fn no_more_files_of_clients_than_a_request_may_have_and_none_from_a_worker() {
    let second = Place::Region { number: 1, offset: 0 };
    let one_only = forged(one(says(1, second)), &[], 0);
    let missing = refusal(&one_only, vec![sealed(1)]);
    assert!(matches!(missing, LinkError::Descriptors { is: 1, wanted: 2 }), "{missing}");
    let third = Place::Region { number: 2, offset: 0 };
    let many = refusal(&forged(one(says(1, third)), &[], 0), vec![sealed(1), sealed(1), sealed(1)]);
    assert!(matches!(many, LinkError::Regions(3)), "{many}");

    let place = Place::Region { number: 0, offset: 0 };
    let outputs = PackageHead { tensors: vec![says(1, place)] };
    let answers = vec![Answer { id: RequestNumber(1), outputs }];
    let done = ToPool::Done(Done { answers, started_ns: 0, wall_ns: 0, cpu_ns: 0 });
    let head = postcard::to_stdvec(&done).unwrap();
    let mut bytes = forged(vec![], &[], 0)[..PREFIX].to_vec();
    bytes[8..PREFIX].copy_from_slice(&(head.len() as u32).to_le_bytes());
    bytes.extend(head);
    let error = decode::<ToPool<Package>>(&bytes, vec![sealed(1)]).unwrap_err();
    assert!(matches!(error, LinkError::Regions(1)), "{error}");
}

prop_compose! {
    fn any_tensor()(
        name in "[a-z]{0,8}",
        datatype in 0..13_usize,
        shape in vec(0..9_u64, 0..5),
        seed: u8,
    ) -> Tensor {
        let datatype = DataType::ALL[datatype];
        // The 13 types before byte strings all have a size.
        let length = shape.iter().product::<u64>() as usize * datatype.size().unwrap();
        Tensor { name, datatype, shape, data: vec![seed; length].into() }
    }
}

prop_compose! {
    fn any_work()(
        id: u64,
        deadline_ns in of(any::<u64>()),
        outputs in vec("[a-z]{0,8}", 0..3),
        sequence in of(("[a-z]{0,8}", any::<bool>(), any::<bool>())),
        inputs in vec(any_tensor(), 0..4),
    ) -> Work {
        let sequence = sequence.map(|(id, start, end)| SequencePlace { id, start, end });
        Work { id: RequestNumber(id), deadline_ns, outputs, sequence, inputs }
    }
}

fn any_to_worker() -> impl Strategy<Value = ToWorker> {
    let engine = prop_oneof![
        Just(Engine::Tract),
        Just(Engine::Denoise),
        of("/[a-z]{0,20}")
            .prop_map(|path| Engine::OnnxRuntime { library: path.map(PathBuf::from) }),
    ];
    let sum = any::<Option<[u8; 32]>>();
    let load = (any::<u32>(), ".{0,20}", ".{0,5}", engine, of("/.{0,20}"), sum, any::<u16>());
    prop_oneof![
        load.prop_map(|(model, name, version, engine, path, sha256, threads)| {
            let (model, path) = (ModelNumber(model), path.map(PathBuf::from));
            ToWorker::Load(Load { model, name, version, engine, path, sha256, threads })
        }),
        any::<u32>().prop_map(|model| ToWorker::Unload(ModelNumber(model))),
        any::<u64>().prop_map(|id| ToWorker::Cancel(RequestNumber(id))),
        Just(ToWorker::Drain),
        vec(any_work(), 0..8).prop_map(infer),
    ]
}

/// Those without tensors; with tensors both directions share their code.
fn any_to_pool() -> impl Strategy<Value = ToPool<Package>> {
    let spec = (".{0,8}", vec(any::<i64>(), 0..5)).prop_map(|(name, shape)| TensorSpec {
        name,
        datatype: DataType::Bf16,
        shape,
    });
    let specs = || vec(spec.clone(), 0..4);
    let loaded = (any::<u32>(), ".{0,8}", specs(), specs(), any::<bool>(), of(any::<u64>()));
    prop_oneof![
        (any::<u32>(), ".{0,99}").prop_map(|(model, reason)| {
            let model = ModelNumber(model);
            ToPool::LoadFailed { model, reason }
        }),
        loaded.prop_map(|(model, engine, inputs, outputs, batching, trial_ns)| {
            let model = ModelNumber(model);
            ToPool::Loaded(Loaded { model, engine, inputs, outputs, batching, trial_ns })
        }),
        (any::<u64>(), ".{0,99}").prop_map(|(id, reason)| {
            let (id, kind) = (RequestNumber(id), FailureKind::Engine);
            ToPool::Failed { id, kind, reason }
        }),
    ]
}

proptest! {
    #[test]
    fn every_message_to_a_worker_comes_out_as_it_went_in(message in any_to_worker()) {
        let (came, _, _) = there_and_back(&packed(message.clone()));
        prop_assert_eq!(came, message);
    }

    #[test]
    fn every_message_to_the_pool_comes_out_as_it_went_in(message in any_to_pool()) {
        let frame = encode(&message).unwrap();
        let came = decode::<ToPool<Package>>(&frame.bytes, vec![]).unwrap();
        prop_assert_eq!(format!("{came:?}"), format!("{message:?}"));
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let _ = decode::<ToWorker<Package>>(&bytes, vec![]);
        let _ = decode::<ToPool<Package>>(&[forged(vec![], &[], 0), bytes].concat(), vec![]);
    }

    #[test]
    fn no_damage_panics(
        message in any_to_worker(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in of(any::<prop::sample::Index>()),
    ) {
        let message = packed(message);
        let frame = encode(&message).unwrap();
        let mut bytes = frame.bytes.clone();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = decode::<ToWorker<Package>>(&bytes, owned(&frame));
        let _ = decode::<ToPool<Package>>(&bytes, owned(&frame));
    }
}
