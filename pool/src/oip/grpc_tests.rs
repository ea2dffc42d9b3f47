use super::proto::model_infer_request::InferInputTensor;
use super::*;

fn request(datatype: &str, shape: &[i64]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "mic".into(),
        inputs: vec![InferInputTensor {
            name: INPUT.into(),
            datatype: datatype.into(),
            shape: shape.to_vec(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[test]
fn raw_and_typed_contents_mean_the_same() {
    let values: Vec<i16> = (0..960).map(|i| i * 30 - 15_000).collect();
    let mut raw = request("INT16", &[480, 2]);
    raw.raw_input_contents = vec![values.iter().flat_map(|v| v.to_le_bytes()).collect()];
    let mut typed = request("INT16", &[480, 2]);
    let int_contents = values.iter().copied().map(i32::from).collect();
    typed.inputs[0].contents = Some(InferTensorContents { int_contents, ..Default::default() });
    let mut float = request("FP32", &[480, 2]);
    float.raw_input_contents =
        vec![values.iter().flat_map(|v| (f32::from(*v) / 32_768.0).to_le_bytes()).collect()];
    let (from_raw, was_raw) = parse(raw).unwrap();
    let (from_typed, was_typed_raw) = parse(typed).unwrap();
    let (from_float, _) = parse(float).unwrap();
    assert_eq!((was_raw, was_typed_raw), (true, false));
    assert_eq!(from_raw.samples, values);
    assert_eq!(from_raw, from_typed);
    assert_eq!(from_float.samples, values);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let neither = parse(request("FP32", &[480])).unwrap_err().to_string();
    assert!(neither.contains("needs its elements once"), "{neither}");
    let mut odd = request("FP32", &[480]);
    odd.raw_input_contents = vec![vec![0; 1921]];
    let odd = parse(odd).unwrap_err().to_string();
    assert!(odd.contains("1921 bytes"), "{odd}");
    let mut short = request("FP32", &[480]);
    short.raw_input_contents = vec![vec![0; 4]];
    let short = parse(short).unwrap_err().to_string();
    assert!(short.contains("has 1 elements"), "{short}");
    let mut none = request("FP32", &[480]);
    none.inputs.clear();
    assert!(parse(none).unwrap_err().to_string().starts_with("0 inputs"));
}
