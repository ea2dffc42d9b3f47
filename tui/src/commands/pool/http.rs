//! One request to the pool's REST server, over its Unix socket.

use std::path::Path;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// How much of an answer is JSON, where raw contents follow; in requests too.
const HEADER_LENGTH: &str = "inference-header-content-length";

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    /// HTTP's.
    pub status: u16,
    /// The JSON.
    pub json: Bytes,
    /// What follows it.
    pub raw: Bytes,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// Nobody listens.
    #[error("connecting: {0}")]
    Connect(std::io::Error),
    /// The connection broke.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// What was to be sent is no HTTP.
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
}

/// Sends JSON and what follows it, or asks with GET where there is nothing to send.
pub(super) fn call(
    socket: &Path,
    path: &str,
    body: Option<(Vec<u8>, Vec<u8>)>,
) -> Result<Answer, HttpError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(HttpError::Connect)?;
    runtime.block_on(async {
        let stream = UnixStream::connect(socket).await.map_err(HttpError::Connect)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the runtime.
        tokio::spawn(connection);
        let mut request = Request::builder().uri(path).header(header::HOST, "localhost");
        let mut whole = Vec::new();
        if let Some((json, raw)) = body {
            request = request.method(Method::POST).header(HEADER_LENGTH, json.len());
            whole = json;
            whole.extend(raw);
        }
        let request = request.body(Full::new(Bytes::from(whole)))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let mut json = body.collect().await?.to_bytes();
        let length = head.headers.get(HEADER_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let raw = json.split_off(length.unwrap_or(json.len()).min(json.len()));
        Ok(Answer { status: head.status.as_u16(), json, raw })
    })
}
