use super::convert::{answer, request};
use super::proto::infer_parameter::ParameterChoice;
use super::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use super::proto::{InferTensorContents, ModelInferRequest};
use super::shared::Place;
use super::*;
use crate::inference::Spent;
use bytes::Bytes;
use downbeat_link::DataType;
use proptest::prelude::*;
use std::collections::HashMap;
use tonic::Code;

fn of(datatype: &str, shape: &[i64]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "m".into(),
        inputs: vec![InferInputTensor {
            name: "a".into(),
            datatype: datatype.into(),
            shape: shape.to_vec(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn with(datatype: &str, shape: &[i64], contents: InferTensorContents) -> ModelInferRequest {
    let mut message = of(datatype, shape);
    message.inputs[0].contents = Some(contents);
    message
}

fn message(message: ModelInferRequest) -> String {
    request(message, Terms::of("test")).unwrap_err().to_string()
}

#[test]
fn typed_contents_of_every_type_come_back_as_they_went() {
    let default = InferTensorContents::default;
    for datatype in DataType::ALL {
        let contents = match datatype {
            DataType::Bool => InferTensorContents { bool_contents: vec![true, false], ..default() },
            DataType::Int8 | DataType::Int16 | DataType::Int32 => {
                InferTensorContents { int_contents: vec![-3, 100], ..default() }
            }
            DataType::Int64 => {
                InferTensorContents { int64_contents: vec![i64::MIN, 1], ..default() }
            }
            DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => {
                InferTensorContents { uint_contents: vec![3, 200], ..default() }
            }
            DataType::Uint64 => {
                InferTensorContents { uint64_contents: vec![u64::MAX, 0], ..default() }
            }
            DataType::Fp16 | DataType::Bf16 | DataType::Fp32 => {
                InferTensorContents { fp32_contents: vec![0.5, -2.0], ..default() }
            }
            DataType::Fp64 => InferTensorContents { fp64_contents: vec![0.1, 2.0], ..default() },
            DataType::Bytes => InferTensorContents {
                bytes_contents: vec![b"\xff".to_vec(), Vec::new()],
                ..default()
            },
        };
        let message = with(datatype.name(), &[2], contents.clone());
        let Read { request, raw, .. } = request(message, Terms::of("test")).unwrap();
        assert!(!raw);
        let response = inference::Response {
            version: "1".into(),
            outputs: request.inputs,
            spent: Spent::default(),
        };
        let answered = answer("m".into(), "7".into(), response, false);
        assert_eq!(answered.outputs[0].contents.as_ref(), Some(&contents), "{}", datatype.name());
        assert_eq!(answered.outputs[0].shape, [2]);
    }
}

#[test]
fn raw_contents_are_not_copied() {
    let data = Bytes::from(vec![1; 8]);
    let mut message = of("FP32", &[2]);
    message.raw_input_contents = vec![data.clone()];
    let Read { request, raw, .. } = request(message, Terms::of("test")).unwrap();
    assert!(raw && std::ptr::eq(&raw const request.inputs[0].data[0], &raw const data[0]));
    let outputs = request.inputs;
    let response = inference::Response { version: "1".into(), outputs, spent: Spent::default() };
    let answered = answer("m".into(), String::new(), response, true);
    assert!(std::ptr::eq(&raw const answered.raw_output_contents[0][0], &raw const data[0]));
    assert_eq!(answered.outputs[0].contents, None);
}

fn in_region(region: &str, bytes: u64) -> HashMap<String, InferParameter> {
    [
        ("shared_memory_region", ParameterChoice::StringParam(region.into())),
        ("shared_memory_byte_size", ParameterChoice::Int64Param(bytes as i64)),
    ]
    .map(|(key, choice)| (key.into(), InferParameter { parameter_choice: Some(choice) }))
    .into()
}

#[test]
fn what_is_in_shared_memory_has_no_contents() {
    let mut message = of("FP32", &[2]);
    let mut second = message.inputs[0].clone();
    second.name = "b".into();
    second.parameters = in_region("frames", 8);
    message.inputs.push(second);
    message.raw_input_contents = vec![vec![0; 8].into()];
    let Read { request, placed, raw } = request(message.clone(), Terms::of("test")).unwrap();
    assert!(raw && request.inputs.len() == 1 && placed[0].name == "b");
    let place = Place { region: "frames".into(), offset: 0, bytes: 8 };
    assert_eq!(placed[0].place, place);
    let mut placed_output = message.clone();
    let parameters = in_region("answers", 40);
    placed_output.outputs.push(InferRequestedOutputTensor { name: "y".into(), parameters });
    let why = self::message(placed_output);
    assert!(why.contains("`y` has the parameter `shared_memory_region`"), "{why}");
    message.raw_input_contents.push(Bytes::new());
    let why = self::message(message);
    assert!(why.contains("2 raw_input_contents for 1 inputs that are not in shared"), "{why}");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let default = InferTensorContents::default;
    assert!(message(of("FP32", &[1])).contains("has no elements"));
    let mut odd = of("FP32", &[2]);
    odd.raw_input_contents = vec![vec![0; 7].into()];
    assert!(message(odd.clone()).contains("has 7 bytes; FP32 with shape [2] has 8"));
    odd.raw_input_contents.push(Bytes::new());
    assert!(message(odd.clone()).contains("2 raw_input_contents for 1 inputs"));
    odd.raw_input_contents.pop();
    odd.inputs[0].contents = Some(default());
    assert!(message(odd).contains("has its elements twice"));
    let floats = InferTensorContents { fp32_contents: vec![1.0], ..default() };
    assert!(message(with("INT8", &[1], floats)).contains("not in the field of INT8"));
    let wide = InferTensorContents { int_contents: vec![128], ..default() };
    assert!(message(with("INT8", &[1], wide)).contains("has 128, which is no INT8"));
    assert!(message(of("FP31", &[1])).contains("datatype `FP31`, which is none of BOOL"));
    assert!(message(of("FP32", &[-1])).contains("shape [-1]"));
    assert!(message(of("FP32", &[i64::MAX, 4])).contains("their product"));
    let mut deadline = of("FP32", &[0]);
    let soon = ParameterChoice::StringParam("soon".into());
    let soon = InferParameter { parameter_choice: Some(soon) };
    deadline.parameters.insert("timeout".into(), soon);
    assert!(message(deadline).contains("`timeout`"));
}

#[test]
fn each_refusal_has_tritons_code() {
    let full = Refusal::Full {
        cause: downbeat_queue::Cause::Full,
        reason: "full".into(),
        retry_after: Duration::from_millis(20),
    };
    let status = Status::from(full);
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "20");
    for (refusal, code) in [
        (Refusal::NotFound("x".into()), Code::NotFound),
        (Refusal::Invalid("x".into()), Code::InvalidArgument),
        (Refusal::TooLarge("x".into()), Code::ResourceExhausted),
        (Refusal::Unavailable("x".into()), Code::Unavailable),
        (Refusal::Expired("x".into()), Code::Unavailable),
        (Refusal::Cancelled, Code::Cancelled),
        (Refusal::Failed("x".into()), Code::Internal),
    ] {
        assert_eq!(Status::from(refusal).code(), code);
    }
}

#[test]
fn grpcs_deadline_has_a_unit() {
    let limit = |text: &str| time_limit(text);
    assert_eq!(limit("10m"), Some(Duration::from_millis(10)));
    assert_eq!(limit("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
    assert_eq!(limit("7n"), Some(Duration::from_nanos(7)));
    for odd in ["", "m", "10", "10x", "-1m", "+1m", "999999999m", "1\u{b5}", "\u{b5}"] {
        assert_eq!(limit(odd), None, "{odd}");
    }
}

proptest! {
    #[test]
    fn no_message_panics(
        shape: Vec<i64>,
        raw: Vec<Vec<u8>>,
        ints: Vec<i32>,
        which in 0..14_usize,
        contents: bool,
    ) {
        let mut message = of(DataType::ALL[which].name(), &shape);
        message.raw_input_contents = raw.into_iter().map(Bytes::from).collect();
        if contents {
            let contents = InferTensorContents { int_contents: ints, ..Default::default() };
            message.inputs[0].contents = Some(contents);
        }
        let _ = request(message, Terms::of("test"));
    }
}
