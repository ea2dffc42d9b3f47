//! A client of the REST server as small as can be: one request a connection, binary tensors.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::TestPool;

/// The models that ship.
pub const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models");

/// However slow the machine is, an answer comes within this.
const PATIENCE: Duration = Duration::from_secs(120);

/// An input.
pub struct Input<'a> {
    pub name: &'a str,
    pub datatype: &'a str,
    pub shape: &'a [usize],
    pub data: &'a [u8],
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub json: Value,
    /// The outputs' bytes, one behind the other.
    pub raw: Vec<u8>,
}

impl Answer {
    /// The first output as numbers.
    pub fn floats(&self) -> Vec<f32> {
        self.raw.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    /// The one string that is the first output.
    pub fn string(&self) -> &[u8] {
        assert_eq!(self.status, 200, "{self:?}");
        &self.raw[4..]
    }

    fn read(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|it| it == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("inference-header-content-length: "))
            .map(|length| length.parse::<usize>().unwrap());
        let body = &bytes[end..];
        let (json, raw) = body.split_at(length.unwrap_or(body.len()));
        let json = serde_json::from_slice(json).unwrap_or(Value::Null);
        Self { status, json, raw: raw.to_vec() }
    }
}

/// One request of any kind.
pub fn call(address: &str, request: &str, headers: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    Answer::read(&answer)
}

/// One inference.
pub fn infer(address: &str, model: &str, inputs: &[Input<'_>]) -> Answer {
    let heads: Vec<_> = inputs
        .iter()
        .map(|input| {
            json!({
                "name": input.name, "datatype": input.datatype, "shape": input.shape,
                "parameters": { "binary_data_size": input.data.len() },
            })
        })
        .collect();
    let head = json!({ "inputs": heads, "parameters": { "binary_data_output": true } });
    let head = head.to_string();
    let mut body = head.clone().into_bytes();
    for input in inputs {
        body.extend_from_slice(input.data);
    }
    let length = format!("Inference-Header-Content-Length: {}\r\n", head.len());
    call(address, &format!("POST /v2/models/{model}/infer"), &length, &body)
}

/// One inference with a string.
pub fn ask(address: &str, model: &str, text: &[u8]) -> Answer {
    let mut data = u32::try_from(text.len()).unwrap().to_le_bytes().to_vec();
    data.extend_from_slice(text);
    infer(address, model, &[Input { name: "input", datatype: "BYTES", shape: &[1], data: &data }])
}

/// A pool with a REST server and the models of a folder.
pub fn start(text: &str, models: &Path) -> (TestPool, String) {
    start_with(text, &["--models", models.to_str().unwrap()])
}

/// A pool with a REST server and more arguments.
pub fn start_with(text: &str, arguments: &[&str]) -> (TestPool, String) {
    let pool = TestPool::start_with(text, &[&["--rest", "127.0.0.1:0"], arguments].concat());
    let address = pool.wait("address", |status| status.rest.is_some()).rest.unwrap();
    (pool, address)
}
