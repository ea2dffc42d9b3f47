//! `ModelInfer` over gRPC on a Unix socket, with messages written by hand: as little of a client as
//! there can be.

use std::future::poll_fn;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bytes::{Buf, Bytes, BytesMut};
use h2::client::SendRequest;
use tokio::net::UnixStream;

use crate::added::floats;
use crate::plan::Input;

/// What may be under way before it is acknowledged: an answer never waits.
const WINDOW: u32 = 8 << 20;

/// A connection to one model.
pub struct Client {
    sender: SendRequest<Bytes>,
    /// The message up to the elements.
    head: Vec<u8>,
}

impl Client {
    /// Within a runtime that runs its tasks on one thread.
    pub async fn open(path: &Path, model: &str, input: &Input) -> Result<Self> {
        let socket = UnixStream::connect(path).await.with_context(|| path.display().to_string())?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_frame_size(1 << 20)
            .handshake(socket)
            .await
            .context("HTTP/2")?;
        // Its end shows in the calls.
        tokio::spawn(connection);
        let mut tensor = Vec::new();
        text(&mut tensor, 1, &input.name);
        text(&mut tensor, 2, &input.datatype);
        let mut shape = Vec::new();
        input.shape.iter().for_each(|size| varint(&mut shape, *size as u64));
        field(&mut tensor, 3, &shape);
        let mut head = Vec::new();
        text(&mut head, 1, model);
        field(&mut head, 5, &tensor);
        Ok(Self { sender, head })
    }

    /// One call; gives the first output.
    pub async fn ask(&mut self, elements: &[u8]) -> Result<Vec<f32>> {
        let mut message = self.head.clone();
        prefix(&mut message, 7, elements.len());
        let length = u32::try_from(message.len() + elements.len()).context("too large")?;
        let mut body = BytesMut::with_capacity(5 + length as usize);
        body.extend_from_slice(&[0]);
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(&message);
        body.extend_from_slice(elements);

        let request = http::Request::post("http://bench/inference.GRPCInferenceService/ModelInfer")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut sender = self.sender.clone().ready().await?;
        let (answer, mut stream) = sender.send_request(request, false)?;
        let mut body = body.freeze();
        stream.reserve_capacity(body.len());
        while !body.is_empty() {
            let some = poll_fn(|cx| stream.poll_capacity(cx)).await.context("closed")??;
            let part = body.split_to(some.min(body.len()));
            stream.send_data(part, body.is_empty())?;
        }
        let mut incoming = answer.await?.into_body();
        let mut came = BytesMut::new();
        while let Some(part) = incoming.data().await {
            let part = part?;
            incoming.flow_control().release_capacity(part.len())?;
            came.extend_from_slice(&part);
        }
        let trailers = incoming.trailers().await?.unwrap_or_default();
        let status = trailers.get("grpc-status").map(|it| it.as_bytes().to_vec());
        ensure!(status.as_deref() == Some(b"0"), "gRPC: {trailers:?}");
        ensure!(came.len() >= 5, "gRPC: an empty answer");
        came.advance(5);
        raw_output(&came).map(floats).context("gRPC: an answer without raw contents")
    }
}

fn varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// The beginning of a field of `length` bytes.
fn prefix(to: &mut Vec<u8>, number: u64, length: usize) {
    varint(to, number << 3 | 2);
    varint(to, length as u64);
}

fn field(to: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    prefix(to, number, bytes.len());
    to.extend_from_slice(bytes);
}

fn text(to: &mut Vec<u8>, number: u64, text: &str) {
    field(to, number, text.as_bytes());
}

/// The first of `raw_output_contents`, field 6 of the answer, all of whose fields have a length.
fn raw_output(mut message: &[u8]) -> Option<&[u8]> {
    fn take(message: &mut &[u8]) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = message.split_first()?;
            *message = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
    while !message.is_empty() {
        let key = take(&mut message)?;
        let length = usize::try_from(take(&mut message)?).ok()?;
        let (bytes, rest) = message.split_at_checked(length)?;
        message = rest;
        if key == 6 << 3 | 2 {
            return Some(bytes);
        }
    }
    None
}
