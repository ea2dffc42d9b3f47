use super::*;
use downbeat_link::DataType;
use proptest::prelude::*;
use proptest::sample::Index;

fn read(json: Option<usize>, body: &[u8]) -> Result<Parsed, Refusal> {
    parse("m".into(), None, json, &Bytes::copy_from_slice(body), Terms::of("test"))
}

fn message(json: Option<usize>, body: &[u8]) -> String {
    read(json, body).unwrap_err().to_string()
}

/// A request as tritonclient makes it: two inputs behind the JSON.
fn binary() -> (usize, Vec<u8>) {
    let json = br#"{"id":"7","inputs":[
        {"name":"a","datatype":"FP32","shape":[2],"parameters":{"binary_data_size":8}},
        {"name":"b","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":6}}],
        "outputs":[{"name":"y","parameters":{"binary_data":true}},{"name":"z"}],
        "parameters":{"timeout":5000,"sequence_id":3,"sequence_start":true}}"#;
    let mut body = json.to_vec();
    body.extend([1.0_f32, f32::NAN].iter().flat_map(|value| value.to_le_bytes()));
    body.extend(b"\x02\0\0\0hi");
    (json.len(), body)
}

#[test]
fn raw_contents_are_slices_of_the_body() {
    let (length, body) = binary();
    let body = Bytes::from(body);
    let Parsed { request, form, .. } =
        parse("m".into(), Some("2".into()), Some(length), &body, Terms::of("me")).unwrap();
    assert_eq!((request.id.as_str(), request.version.as_deref()), ("7", Some("2")));
    let [a, b] = &request.inputs[..] else { panic!("{request:?}") };
    assert_eq!((a.datatype, &a.shape[..], a.data.len()), (DataType::Fp32, &[2][..], 8));
    // NaN passes as it is: only the model knows what it means.
    assert!(f32::from_le_bytes(a.data[4..].try_into().unwrap()).is_nan());
    assert_eq!(b.strings().collect::<Vec<_>>(), [b"hi"]);
    assert!(std::ptr::eq(&raw const a.data[0], &raw const body[length]));
    assert_eq!(request.outputs, ["y", "z"]);
    assert!(form.is_binary("y") && !form.is_binary("z") && !form.is_binary("x"));
    assert!(request.terms.deadline.is_some());
    assert!(request.terms.sequence.is_some_and(|it| it.start && it.id == "3"));
}

#[test]
fn data_may_stand_before_its_type() {
    let body = br#"{"inputs":[
        {"data":[[1,2],[3,4]],"shape":[2,2],"datatype":"UINT16","name":"a"},
        {"name":"b","datatype":"BOOL","shape":[1],"data":[true]}]}"#;
    let parsed = read(None, body).unwrap();
    assert_eq!(parsed.request.inputs[0].data, [1, 0, 2, 0, 3, 0, 4, 0].as_slice());
    assert_eq!(parsed.request.inputs[1].data, [1].as_slice());
    assert_eq!(parsed.form, Form::default());
}

#[test]
fn what_is_in_shared_memory_is_neither_in_the_json_nor_behind_it() {
    let body = br#"{"inputs":[
        {"name":"a","datatype":"UINT8","shape":[2],"data":[1,2]},
        {"name":"b","datatype":"FP32","shape":[3],"parameters":{
            "shared_memory_region":"frames","shared_memory_byte_size":12,"shared_memory_offset":64}}]}"#;
    let Parsed { request, placed, .. } = read(None, body).unwrap();
    assert_eq!((request.inputs.len(), request.inputs[0].name.as_str()), (1, "a"));
    let place = Place { region: "frames".into(), offset: 64, bytes: 12 };
    assert_eq!((placed.len(), placed[0].name.as_str(), &placed[0].place), (1, "b", &place));
}

#[test]
fn binary_output_by_default_may_be_taken_back() {
    let body = br#"{"inputs":[],"parameters":{"binary_data_output":true},
        "outputs":[{"name":"y"},{"name":"z","parameters":{"binary_data":false}}]}"#;
    let form = read(None, body).unwrap().form;
    assert!(form.is_binary("y") && !form.is_binary("z"));
}

fn one(datatype: &str, shape: &str, rest: &str) -> Vec<u8> {
    format!(r#"{{"inputs":[{{"name":"a","datatype":"{datatype}","shape":{shape}{rest}}}]}}"#)
        .into_bytes()
}

#[test]
fn wrong_requests_are_told_what_to_send() {
    for (body, wanted) in [
        (b"{".to_vec(), "not an inference request"),
        (b"[]".to_vec(), "an object with `inputs`"),
        (b"{}".to_vec(), "missing field `inputs`"),
        (br#"{"inputs":[]} x"#.to_vec(), "trailing characters"),
        (br#"{"inputs":[],"inputs":[]}"#.to_vec(), "duplicate field `inputs`"),
        (br#"{"inputs":[{"name":"a","shape":[1]}]}"#.to_vec(), "missing field `datatype`"),
        (one("fp32", "[1]", ""), "datatype `fp32` is none of BOOL"),
        (one("FP32", "[1]", ""), "no `data` and no `binary_data_size`"),
        (one("FP32", "[2]", r#","data":[1]"#), "`a` has 4 bytes; FP32 with shape [2] has 8"),
        (one("FP32", "[-1]", r#","data":[1]"#), "shape [-1]"),
        (one("FP32", "[9223372036854775807,3]", r#","data":[1]"#), "their product"),
        (one("FP64", "[4611686018427387904]", r#","data":[1]"#), "`a` has shape"),
        (one("FP32", "[18446744073709551615]", r#","data":[1]"#), "invalid value"),
        (one("FP32", "[0.5]", r#","data":[1]"#), "invalid type"),
        (one("FP32", &format!("{:?}", [1; 17]), r#","data":[1]"#), "more than 16 dimensions"),
        (one("FP32", "[1]", r#","data":[NaN]"#), "not an inference request"),
        (one("FP32", "[1]", r#","parameters":{"binary_data_size":4}"#), "0 bytes of the body"),
        (one("FP32", "[1]", r#","parameters":{"binary_data_size":-4}"#), "no whole number"),
        (
            one("FP32", "[1]", r#","data":[1],"parameters":{"binary_data_size":4}"#),
            "more than one of `data`, `binary_data_size` and",
        ),
        (
            one(
                "FP32",
                "[1]",
                r#","data":[1],"parameters":{"shared_memory_region":"x","shared_memory_byte_size":4}"#,
            ),
            "more than one of `data`, `binary_data_size` and `shared_memory_region`",
        ),
        (
            one("FP32", "[1]", r#","parameters":{"shared_memory_region":"x"}"#),
            "give `shared_memory_byte_size` too",
        ),
        (
            one("FP32", "[1]", r#","parameters":{"shared_memory_byte_size":4}"#),
            "no `shared_memory_region` that is the name",
        ),
    ] {
        let message = message(None, &body);
        assert!(message.contains(wanted), "{}: {message}", String::from_utf8_lossy(&body));
    }
}

#[test]
fn lengths_that_do_not_add_up_are_told() {
    let (length, mut body) = binary();
    assert!(message(Some(body.len() + 1), &body).contains("and the body has"));
    assert!(message(Some(usize::MAX), &body).contains("and the body has"));
    assert!(message(Some(length - 1), &body).contains("not an inference request"));
    body.pop();
    assert!(message(Some(length), &body).contains("`binary_data_size` of 6, and 5 bytes"));
    body.extend(b"ixx");
    assert!(message(Some(length), &body).contains("2 bytes of the body belong to no input"));
}

#[test]
fn too_much_json_is_too_large_before_it_is_read() {
    let body = vec![b' '; MAX_JSON + 1];
    assert!(matches!(read(None, &body), Err(Refusal::TooLarge(_))));
}

#[test]
fn a_million_of_anything_small_is_refused() {
    let many = |of: &str| vec![of; 1_000].join(",");
    let inputs = many(r#"{"name":"a","datatype":"FP32","shape":[1],"data":[1]}"#);
    assert!(message(None, format!(r#"{{"inputs":[{inputs}]}}"#).as_bytes()).contains("256 inputs"));
    let outputs = format!(r#"{{"inputs":[],"outputs":[{}]}}"#, many(r#"{"name":"y"}"#));
    assert!(message(None, outputs.as_bytes()).contains("256 outputs"));
    let deep = format!(r#"{{"x":{}"#, "[".repeat(200_000));
    assert!(message(None, deep.as_bytes()).contains("not an inference request"));
}

proptest! {
    #[test]
    fn no_bytes_panic(json: Option<u16>, body: Vec<u8>) {
        let _ = read(json.map(usize::from), &body);
    }

    #[test]
    fn no_damage_panics(
        at: Index,
        cut: Index,
        with in prop::collection::vec(any::<u8>(), 0..8),
        shift in -3_isize..4,
    ) {
        let (length, mut body) = binary();
        let start = at.index(body.len());
        let end = (start + cut.index(8)).min(body.len());
        body.splice(start..end, with);
        let _ = read(length.checked_add_signed(shift), &body);
    }
}
