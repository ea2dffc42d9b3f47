use super::*;
use proptest::prelude::*;

const SUM: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn whole() -> String {
    format!(
        r#"name = "glyphs"
platform = "onnx"
description = "Letters"
media = "image"
labels = "labels.txt"
max_batch = 8
sample_rate = 48000
accuracy = "99 %"

[[input]]
name = "image"
datatype = "FP32"
shape = [-1, 1, 32, 32]

[[output]]
name = "scores"
datatype = "FP32"
shape = [-1, 62]

[version.1]
sha256 = "{SUM}"
"#
    )
}

fn message(text: &str) -> String {
    parse(Path::new("m/model.toml"), "glyphs", text).unwrap_err().to_string()
}

#[test]
fn every_key_is_understood() {
    let found = parse(Path::new("model.toml"), "glyphs", &whole()).unwrap();
    let spec = |name: &str, shape: &[i64]| TensorSpec {
        name: name.into(),
        datatype: DataType::Fp32,
        shape: shape.to_vec(),
    };
    assert_eq!(
        found,
        ModelDescription {
            name: "glyphs".into(),
            platform: Platform::Onnx,
            description: "Letters".into(),
            media: Media::Image,
            inputs: vec![spec("image", &[-1, 1, 32, 32])],
            outputs: vec![spec("scores", &[-1, 62])],
            labels: Some("labels.txt".into()),
            max_batch: 8,
            sample_rate: Some(48_000),
            accuracy: Some("99 %".into()),
            versions: BTreeMap::from([(1, Sha256::parse(SUM).unwrap())]),
        }
    );
    assert_eq!(found.versions[&1].to_string(), SUM);
}

/// A change of the whole file, and what the message must hold.
#[test]
fn what_is_wrong_is_named_with_its_remedy() {
    for (from, to, wanted) in [
        ("media = \"image\"", "media = \"smell\"", "m/model.toml:4:9: unknown variant `smell`"),
        ("description", "descrption", "m/model.toml:3:1: unknown field `descrption`"),
        ("shape = [-1, 62]", "shpe = [-1, 62]", "unknown field `shpe`"),
        ("\"FP32\"", "\"FLOAT\"", "unknown variant `FLOAT`"),
        ("\"glyphs\"", "\"other\"", "not the folder's name, `glyphs`; rename"),
        ("\"glyphs\"", "\"../x\"", "cannot be a model's name"),
        ("max_batch = 8", "max_batch = 0", "`max_batch`: 0 is not 1 to 1024"),
        ("max_batch = 8", "max_batch = -1", "max_batch = 8|invalid value"),
        ("= 48000", "= 3999", "`sample_rate`: 3999 is not 4000 to 192000 samples a second"),
        ("\"FP32\"", "\"UINT8\"", "`sample_rate`: the first input, `image`, is UINT8, which is"),
        ("[-1, 62]", "[2, 62]", "[[output]] `scores`: batches of up to 8 need -1"),
        ("[-1, 62]", "[-1, -2]", "[[output]] `scores`: -2 in its shape"),
        ("[-1, 62]", "[-1, 0]", "[[output]] `scores`: 0 in its shape"),
        ("[-1, 62]", "[-1, 9223372036854775807, 3]", "their product fits in 64 bits"),
        ("\"scores\"", "\"\"", "each needs a name of its own"),
        ("\"labels.txt\"", "\"../labels.txt\"", "not the name of a file beside model.toml"),
        ("[version.1]", "[version.01]", "[version.01]: a version is a whole number from 1"),
        ("[version.1]", "[version.-1]", "[version.-1]: a version is a whole number from 1"),
        (SUM, "abc", "[version.1] `sha256`: not 64 hexadecimal digits; `sha256sum 1/model.onnx`"),
        ("[[input]]", "[[inputs]]", "unknown field `inputs`"),
    ] {
        let text = whole().replace(from, to);
        let found = message(&text);
        let wanted = wanted.split('|').next_back().unwrap();
        assert!(found.contains(wanted), "{to}: {found}");
    }
    assert!(message("").contains("missing field `name`"));
    assert!(message("[version]").contains("missing field"));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(
        text in "(name = \"glyphs\"\n|\\[\\[input\\]\\]\n|[a-z_]{1,9} = |-?[0-9]{1,20}|\"[^\"]{0,9}\"|\\[|\\]|\\PC|\n){0,20}"
    ) {
        let _ = parse(Path::new("x"), "glyphs", &text);
    }

    #[test]
    fn no_value_makes_it_panic(shape: Vec<i64>, batch: u32, number: String, sum in "[0-9a-fé]{60,66}") {
        let text = whole()
            .replace("[-1, 62]", &format!("{shape:?}"))
            .replace("max_batch = 8", &format!("max_batch = {batch}"))
            .replace("[version.1]", &format!("[version.{number:?}]"))
            .replace(SUM, &sum);
        let _ = parse(Path::new("x"), "glyphs", &text);
    }
}
