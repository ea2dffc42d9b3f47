//! A model whose input is large and whose work is small: the mean of each plane of a picture, and a
//! linear layer on these. It is written here byte by byte, so that making it needs no Python.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Name in the store.
pub const NAME: &str = "mean";
/// Name of its input.
pub const INPUT: &str = "x";
/// The input's dimensions: 307,200 bytes of FP32.
pub const SHAPE: [u64; 4] = [1, 3, 160, 160];
/// Numbers of its answer.
const OUTPUTS: u64 = 10;

/// `TensorProto.DataType.FLOAT`.
const FLOAT: u64 = 1;
/// `AttributeProto.AttributeType.INT`.
const INT: u64 = 2;

/// Puts the model into a store's folder; gives its file.
pub fn write(store: &Path) -> Result<PathBuf> {
    let folder = store.join(NAME);
    let file = folder.join("1/model.onnx");
    let bytes = onnx();
    let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let shape = SHAPE.map(|size| size.to_string()).join(", ");
    let description = format!(
        "name = \"{NAME}\"\nplatform = \"onnx\"\nmedia = \"image\"\n\
         [[input]]\nname = \"{INPUT}\"\ndatatype = \"FP32\"\nshape = [{shape}]\n\
         [[output]]\nname = \"y\"\ndatatype = \"FP32\"\nshape = [1, {OUTPUTS}]\n\
         [version.1]\nsha256 = \"{sum}\"\n"
    );
    let made = fs::create_dir_all(folder.join("1"))
        .and_then(|()| fs::write(&file, bytes))
        .and_then(|()| fs::write(folder.join("model.toml"), description));
    made.with_context(|| format!("{}: writing a model there", folder.display()))?;
    Ok(file)
}

/// A message of protocol buffers, field by field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn number(mut self, field: u64, number: u64) -> Self {
        self.varint(field << 3);
        self.varint(number);
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    fn message(self, field: u64, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }
}

fn node(kind: &str, inputs: &[&str], output: &str) -> Message {
    let node = inputs.iter().fold(Message::default(), |node, input| node.text(1, input));
    node.text(2, output).text(3, output).text(4, kind)
}

fn tensor(name: &str, shape: &[u64], values: impl Iterator<Item = f32>) -> Message {
    let raw: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    let dims = shape.iter().fold(Message::default(), |tensor, size| tensor.number(1, *size));
    dims.number(2, FLOAT).text(8, name).bytes(9, &raw)
}

fn value(name: &str, shape: &[u64]) -> Message {
    let dims = shape.iter().fold(Message::default(), |shape, size| {
        shape.message(1, &Message::default().number(1, *size))
    });
    let kind = Message::default().number(1, FLOAT).message(2, &dims);
    Message::default().text(1, name).message(2, &Message::default().message(1, &kind))
}

fn onnx() -> Vec<u8> {
    let planes = SHAPE[1];
    let axis = Message::default().text(1, "axis").number(3, 1).number(20, INT);
    let weights = (0..planes * OUTPUTS).map(|i| (i % 7) as f32 * 0.25 - 0.75);
    let graph = Message::default()
        .message(1, &node("GlobalAveragePool", &[INPUT], "pooled"))
        .message(1, &node("Flatten", &["pooled"], "flat").message(5, &axis))
        .message(1, &node("Gemm", &["flat", "w", "b"], "y"))
        .text(2, NAME)
        .message(5, &tensor("w", &[planes, OUTPUTS], weights))
        .message(5, &tensor("b", &[OUTPUTS], (0..OUTPUTS).map(|i| i as f32)))
        .message(11, &value(INPUT, &SHAPE))
        .message(12, &value("y", &[1, OUTPUTS]));
    let opset = Message::default().text(1, "").number(2, 13);
    let model = Message::default().number(1, 8).text(2, "downbeat");
    model.message(7, &graph).message(8, &opset).0
}
