use std::fs;
use std::path::PathBuf;

use downbeat_link::{Engine, Load, ModelNumber};
use proptest::prelude::*;

use super::*;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/engine/fixtures").join(name)
}

fn load(path: PathBuf) -> anyhow::Result<Box<dyn Model>> {
    super::super::load(&Load {
        model: ModelNumber(1),
        name: "test".into(),
        version: "1".into(),
        engine: Engine::Tract,
        path: Some(path),
        sha256: None,
        threads: 1,
    })
}

fn floats(name: &str, shape: &[u64], values: &[f32]) -> Tensor {
    Tensor {
        name: name.into(),
        datatype: DataType::Fp32,
        shape: shape.to_vec(),
        data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

fn refusal(path: PathBuf) -> String {
    match load(path) {
        Ok(_) => panic!("it was loaded"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn items_are_computed_alone_and_together() {
    let mut model = load(fixture("affine.onnx")).unwrap();
    let spec = |name: &str, shape: [i64; 2]| TensorSpec {
        name: name.into(),
        datatype: DataType::Fp32,
        shape: shape.to_vec(),
    };
    assert_eq!(model.face().inputs, [spec("x", [-1, 3])]);
    assert_eq!(model.face().outputs, [spec("y", [-1, 3]), spec("sum", [-1, 1])]);
    assert!(model.face().batching);

    // Both plans, and each again after the other.
    for _ in 0..2 {
        let one = vec![floats("x", &[1, 3], &[1.0, 2.0, 3.0])];
        let outputs = model.compute(None, model.check(one).unwrap()).unwrap();
        assert_eq!(outputs[0], floats("y", &[1, 3], &[3.0, 5.0, 7.0]));
        assert_eq!(outputs[1], floats("sum", &[1, 1], &[6.0]));

        let two = vec![floats("x", &[2, 3], &[1.0, 2.0, 3.0, 0.0, 0.5, -1.0])];
        let outputs = model.compute(None, model.check(two).unwrap()).unwrap();
        assert_eq!(outputs[0], floats("y", &[2, 3], &[3.0, 5.0, 7.0, 1.0, 2.0, -1.0]));
        assert_eq!(outputs[1], floats("sum", &[2, 1], &[6.0, -0.5]));
    }
}

#[test]
fn a_model_of_fixed_size_is_not_for_batches() {
    let mut model = load(fixture("fixed.onnx")).unwrap();
    assert!(!model.face().batching);
    let integers = |name: &str, values: [i64; 4]| Tensor {
        name: name.into(),
        datatype: DataType::Int64,
        shape: vec![4],
        data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    let inputs = vec![integers("b", [1, 2, 3, 4]), integers("a", [10, 20, 30, 40])];
    let outputs = model.compute(None, model.check(inputs).unwrap()).unwrap();
    assert_eq!(outputs, [integers("total", [11, 22, 33, 44])]);
}

#[test]
fn sizes_that_contradict_each_other_are_refused_and_the_model_goes_on() {
    let mut model = load(fixture("product.onnx")).unwrap();
    assert!(!model.face().batching);
    let wrong = vec![floats("a", &[2, 3], &[1.0; 6]), floats("b", &[2, 2], &[1.0; 4])];
    assert!(model.compute(None, model.check(wrong).unwrap()).is_err());
    let right = vec![floats("a", &[2, 3], &[1.0; 6]), floats("b", &[3, 2], &[1.0; 6])];
    let outputs = model.compute(None, model.check(right).unwrap()).unwrap();
    assert_eq!(outputs, [floats("c", &[2, 2], &[3.0; 4])]);
}

#[test]
fn numbers_that_are_none_go_through() {
    let mut model = load(fixture("affine.onnx")).unwrap();
    let odd = vec![floats("x", &[1, 3], &[f32::NAN, f32::INFINITY, 0.0])];
    let outputs = model.compute(None, model.check(odd).unwrap()).unwrap();
    assert_eq!(outputs[0].data.len(), 12);
}

#[test]
fn files_that_are_no_models_are_refused_with_their_path() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.onnx");
    for bytes in [&b""[..], b"PK\x03\x04 not a model", &[0xff; 4096]] {
        fs::write(&file, bytes).unwrap();
        let told = refusal(folder.path().to_owned());
        assert!(told.contains("model.onnx: cannot be loaded"), "{told}");
    }
}

#[test]
fn hostile_models_are_refused() {
    for name in ["huge.onnx", "outside.onnx"] {
        let told = refusal(fixture(name));
        assert!(told.contains("cannot be loaded"), "{told}");
    }
}

#[test]
fn a_truncated_model_is_refused_or_is_another_model() {
    let whole = fs::read(fixture("affine.onnx")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.onnx");
    for length in 0..whole.len() {
        fs::write(&file, &whole[..length]).unwrap();
        // The last fields of a message may be missing; what counts is that nothing crashes.
        let _ = load(file.clone());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_damage_to_a_file_ends_the_worker(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = fs::read(fixture("affine.onnx")).unwrap();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.onnx");
        fs::write(&file, bytes).unwrap();
        if let Ok(mut model) = load(file) {
            let inputs = vec![floats("x", &[1, 3], &[1.0, 2.0, 3.0])];
            if let Ok(inputs) = model.check(inputs) {
                let _ = guarded(|| model.compute(None, inputs));
            }
        }
    }
}
