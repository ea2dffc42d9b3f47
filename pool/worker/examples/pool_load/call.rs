//! One request as bytes, and what its answer says.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};

use crate::plan::Input;

/// Digits of a request's number, which is its id.
const DIGITS: usize = 12;

/// Requests to one model, but for their number and elements.
pub struct Template {
    path: String,
    input: Input,
    binary: bool,
    /// Bytes of each variant, one behind the other.
    data: Vec<u8>,
    /// Bytes of one variant.
    size: usize,
    /// Numbers of each answer, one behind the other.
    expected: Option<Vec<f32>>,
}

impl Template {
    /// Reads the elements.
    pub fn new(
        path: &str,
        input: &Input,
        binary: bool,
        expected: Option<&std::path::Path>,
    ) -> Result<Self> {
        let width = match input.datatype.as_str() {
            "UINT8" | "INT8" | "BOOL" => 1,
            "INT16" => 2,
            "FP32" => 4,
            other => anyhow::bail!("{other}: not a type that the bench asks for"),
        };
        let size = input.shape.iter().product::<usize>() * width;
        let file = input.data.display();
        let data = std::fs::read(&input.data).with_context(|| format!("{file}: reading it"))?;
        ensure!(
            size > 0 && !data.is_empty() && data.len() % size == 0,
            "{file}: its {} bytes are no multiple of {size}",
            data.len()
        );
        let expected = match expected {
            None => None,
            Some(file) => {
                let bytes = std::fs::read(file);
                let bytes = bytes.with_context(|| format!("{}: reading it", file.display()))?;
                let numbers = bytes.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it));
                Some(numbers.collect())
            }
        };
        let (path, input) = (path.to_owned(), input.clone());
        Ok(Self { path, input, binary, data, size, expected })
    }

    /// Elements of request `number`.
    pub fn elements(&self, number: u64) -> &[u8] {
        let start = self.variant(number) * self.size;
        &self.data[start..start + self.size]
    }

    /// How many there are; request `number` has that of `number % variants`.
    pub fn variants(&self) -> usize {
        self.data.len() / self.size
    }

    fn variant(&self, number: u64) -> usize {
        // Less than the number of variants, which is a `usize`.
        (number % self.variants() as u64) as usize
    }

    /// The head of request `number` with its JSON; [`Self::elements`] follow where they are raw.
    pub fn head(&self, number: u64, client: Option<usize>) -> Vec<u8> {
        let mut json = self.beginning(number);
        if self.binary {
            json += r#""parameters":{"binary_data_size":"#;
            json += &self.size.to_string();
            json += r#"}}],"parameters":{"binary_data_output":true}}"#;
        } else {
            json += r#""data":["#;
            self.write_elements(number, &mut json);
            json += "]}]}";
        }
        let raw = if self.binary { self.size } else { 0 };
        self.with_head(&json, raw, client)
    }

    /// The whole of request `number` whose elements lie at the front of a region of shared memory.
    pub fn shared(&self, number: u64, region: &str) -> Vec<u8> {
        let mut json = self.beginning(number);
        json += r#""parameters":{"shared_memory_region":""#;
        json += region;
        json += r#"","shared_memory_byte_size":"#;
        json += &self.size.to_string();
        json += r#"}}],"parameters":{"binary_data_output":true}}"#;
        self.with_head(&json, 0, None)
    }

    fn beginning(&self, number: u64) -> String {
        let Input { name, datatype, shape, .. } = &self.input;
        let shape = shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        format!(
            r#"{{"id":"{number:0DIGITS$}","inputs":[{{"name":"{name}","datatype":"{datatype}","shape":[{shape}],"#
        )
    }

    fn with_head(&self, json: &str, raw: usize, client: Option<usize>) -> Vec<u8> {
        let mut head = format!("POST {} HTTP/1.1\r\nHost: bench\r\n", self.path);
        if self.binary {
            head += "Content-Type: application/octet-stream\r\n";
            head += &format!("Inference-Header-Content-Length: {}\r\n", json.len());
        } else {
            head += "Content-Type: application/json\r\n";
        }
        if let Some(client) = client {
            head += &format!("X-Downbeat-Client: client-{client}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", json.len() + raw);
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(json.as_bytes());
        bytes
    }

    fn write_elements(&self, number: u64, json: &mut String) {
        let bytes = self.elements(number);
        let mut separator = "";
        let mut add = |value: &dyn std::fmt::Display| {
            // To a string, this cannot fail.
            let _ = write!(json, "{separator}{value}");
            separator = ",";
        };
        match self.input.datatype.as_str() {
            "INT16" => bytes.as_chunks().0.iter().for_each(|it| add(&i16::from_le_bytes(*it))),
            "FP32" => bytes.as_chunks().0.iter().for_each(|it| add(&f32::from_le_bytes(*it))),
            _ => bytes.iter().for_each(|it| add(it)),
        }
    }

    /// Whether elements travel behind the JSON.
    pub fn is_binary(&self) -> bool {
        self.binary
    }

    /// Whether an answer with status 200 is the one to request `number`: by its id, and by its
    /// numbers where they are known.
    pub fn is_answer(&self, number: u64, answer: &Answer<'_>) -> bool {
        let id = format!("\"{number:0DIGITS$}\"");
        if !contains(answer.json, id.as_bytes()) {
            return false;
        }
        let Some(expected) = self.expected.as_ref().filter(|_| self.binary) else {
            return true;
        };
        let count = expected.len() / self.variants();
        let start = self.variant(number) * count;
        let numbers = answer.raw.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it));
        answer.raw.len() == count * 4
            && numbers.zip(&expected[start..]).all(|(is, was)| (is - was).abs() < TOLERANCE)
    }
}

/// Engines differ by less than this.
const TOLERANCE: f32 = 2e-3;

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// An answer.
#[derive(Debug)]
pub struct Answer<'a> {
    pub status: u16,
    /// JSON, or whatever came instead.
    pub json: &'a [u8],
    /// Elements behind it.
    pub raw: &'a [u8],
    /// Bytes of all of it.
    pub length: usize,
    /// The server ends the connection behind it.
    pub last: bool,
}

impl<'a> Answer<'a> {
    /// Reads an answer from the front of what came; nothing while some of it is missing.
    pub fn read(bytes: &'a [u8]) -> Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = std::str::from_utf8(&bytes[..end]).context("a head that is no text")?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let status = status.and_then(|it| it.parse().ok()).context("a head without a status")?;
        let (mut length, mut json, mut last) = (None, None, false);
        for line in lines {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse::<usize>().ok();
            } else if name.eq_ignore_ascii_case("inference-header-content-length") {
                json = value.parse::<usize>().ok();
            } else if name.eq_ignore_ascii_case("connection") {
                last = value.eq_ignore_ascii_case("close");
            }
        }
        let length = length.context("an answer without Content-Length")?;
        let Some(body) = bytes.get(end + 4..end + 4 + length) else {
            return Ok(None);
        };
        let (json, raw) = body.split_at_checked(json.unwrap_or(length)).context("a short body")?;
        Ok(Some(Self { status, json, raw, length: end + 4 + length, last }))
    }
}
