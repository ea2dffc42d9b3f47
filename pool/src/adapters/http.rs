//! A server of HTTP with a path of its own: the first input as the body, or as a file in a form.

use std::io::ErrorKind;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request as HttpRequest, StatusCode, Uri, header};
use bytes::Bytes;
use downbeat_link::{Tensor, TensorSpec};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    AdapterError, FAREWELL, LOOK, MAX_ANSWER, default_output, first_input, output, payload,
};
use crate::config::{Http, HttpBody, WorkerConfig};
use crate::inference::{Refusal, Request};

/// See the module.
#[derive(Debug)]
pub struct HttpWorker {
    server: Server,
    http: Http,
    output: TensorSpec,
}

impl HttpWorker {
    pub(super) fn new(config: &WorkerConfig, http: &Http, base: String) -> Self {
        let output = config.outputs.first().cloned().unwrap_or_else(default_output);
        let server = Server::new(config, http.url.is_none(), base);
        Self { server, http: http.clone(), output }
    }

    pub(super) async fn infer(&self, request: &Request) -> Result<Vec<Tensor>, AdapterError> {
        let Some(path) = &self.http.path else {
            let name = &self.server.name;
            let reason =
                format!("`{name}` takes /v1/* only; give it `http.path` for inference requests");
            return Err(Refusal::Invalid(reason).into());
        };
        let first = first_input(request)?;
        let media_type = self.http.content_type.as_deref().unwrap_or("application/octet-stream");
        let (content_type, body) = match &self.http.body {
            HttpBody::Raw => (media_type.to_owned(), first),
            HttpBody::Form(field) => form(field, media_type, &first, request),
        };
        let failed = |reason: String| Refusal::Failed(format!("`{}`: {reason}", self.server.name));
        let mut headers = vec![(header::CONTENT_TYPE.as_str(), content_type.as_str())];
        // What it asks other models on behalf of this request has this one's deadline.
        if HeaderValue::from_str(&request.id).is_ok() {
            headers.push(("x-downbeat-parent", &request.id));
        }
        if let Some(trace) = &request.terms.traceparent {
            headers.push(("traceparent", trace));
        }
        let (status, _, answer) = self.server.post(path, &headers, body).await?;
        if !status.is_success() {
            return Err(failed(format!("{path} answers {status}{}", excerpt(&answer))).into());
        }
        Ok(vec![output(&self.output, answer).map_err(failed)?])
    }
}

/// A form with the first input as a file and the others as fields of their own names.
fn form(field: &str, media_type: &str, first: &[u8], request: &Request) -> (String, Bytes) {
    // Nothing that a body holds by chance.
    let boundary = format!("downbeat-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    let mut body = Vec::with_capacity(first.len() + 512);
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"{field}\"; \
         filename=\"{field}\"\r\nContent-Type: {media_type}\r\n\r\n"
    );
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(first);
    for tensor in request.inputs.iter().skip(1) {
        // A name is the client's: what would end the quotes or the line is left out.
        let name: String = tensor.name.chars().filter(|c| !"\"\r\n\\".contains(*c)).collect();
        let head =
            format!("\r\n--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(&payload(tensor));
    }
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body.into())
}

/// The server that a worker is.
#[derive(Debug)]
pub(super) struct Server {
    /// The worker's name.
    pub name: String,
    base: String,
    /// It is a process of the pool's own.
    own: bool,
}

impl Server {
    pub fn new(config: &WorkerConfig, own: bool, base: String) -> Self {
        Self { name: config.name.clone(), base, own }
    }

    /// One POST on a connection of its own, which is closed when this is dropped.
    pub async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<(StatusCode, axum::http::HeaderMap, Bytes), AdapterError> {
        match call(Method::POST, &self.base, path, headers, body).await {
            Ok(answered) => Ok(answered),
            Err(error) => Err(self.told(error).await),
        }
    }

    /// What it means for a request. A server of the pool's own on whose port nobody listens any more
    /// has ended.
    async fn told(&self, error: CallError) -> AdapterError {
        let Self { name, base, own } = self;
        let refused = match &error {
            CallError::Connect { refused, .. } => *refused,
            CallError::Broken(_) => *own && ends(base).await,
        };
        if *own && refused {
            return AdapterError::Lost(error.reason());
        }
        let refusal = match error {
            CallError::Connect { reason, .. } => {
                Refusal::Unavailable(format!("`{name}` is not reached: {reason}"))
            }
            CallError::Broken(reason) => Refusal::Failed(format!("`{name}`: {reason}")),
        };
        refusal.into()
    }
}

/// Why there is no answer.
enum CallError {
    /// There is no connection.
    Connect {
        /// Why.
        reason: String,
        /// Nobody listens.
        refused: bool,
    },
    /// It broke off, or is too long.
    Broken(String),
}

impl CallError {
    fn reason(self) -> String {
        match self {
            Self::Connect { reason, .. } | Self::Broken(reason) => reason,
        }
    }
}

/// Whether the server that broke off ends: within a moment nobody listens on its port.
async fn ends(base: &str) -> bool {
    let look = async {
        loop {
            match connect(base).await {
                Err(CallError::Connect { refused: true, .. }) => return,
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    };
    tokio::time::timeout(FAREWELL, look).await.is_ok()
}

/// How long a server may take to say that it is ready.
const PROBE: Duration = Duration::from_secs(5);

/// Whether a server is ready: it answers GET of `health` with 2xx, or takes a connection where that
/// is absent.
///
/// # Errors
/// What it does instead.
pub async fn answers(base: &str, health: Option<&str>) -> Result<(), String> {
    let ask = async {
        let Some(path) = health else {
            let (stream, _) = connect(base).await.map_err(CallError::reason)?;
            drop(stream);
            return Ok(());
        };
        let (status, _, answer) =
            call(Method::GET, base, path, &[], Bytes::new()).await.map_err(CallError::reason)?;
        if status.is_success() {
            return Ok(());
        }
        Err(format!("{base}{path} answers {status}{}", excerpt(&answer)))
    };
    let late = || Err(format!("{base} does not answer within {} s", PROBE.as_secs()));
    tokio::time::timeout(PROBE, ask).await.unwrap_or_else(|_| late())
}

/// A connection to a server, and its name for the server.
async fn connect(base: &str) -> Result<(TcpStream, String), CallError> {
    let uri: Uri = base.parse().map_err(|error| CallError::Broken(format!("{base}: {error}")))?;
    let host = uri.host().unwrap_or("127.0.0.1").trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(80);
    let stream =
        TcpStream::connect((host.as_str(), port)).await.map_err(|error| CallError::Connect {
            reason: format!("{base}: {error}"),
            refused: error.kind() == ErrorKind::ConnectionRefused,
        })?;
    let _ = stream.set_nodelay(true);
    let authority = uri.authority().map_or(host, ToString::to_string);
    Ok((stream, authority))
}

async fn call(
    method: Method,
    base: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<(StatusCode, axum::http::HeaderMap, Bytes), CallError> {
    let broken =
        |error: &dyn std::fmt::Display| CallError::Broken(format!("{base}{path}: {error}"));
    let (stream, authority) = connect(base).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    let mut request =
        HttpRequest::builder().method(method).uri(path).header(header::HOST, authority);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body)).map_err(|error| broken(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let (head, body) = response.into_parts();
        let body = axum::body::to_bytes(Body::new(body), MAX_ANSWER)
            .await
            .map_err(|error| broken(&error))?;
        Ok((head.status, head.headers, body))
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        // It may end with the answer in hand.
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(broken(&error)),
        },
    }
}

/// The beginning of an error's body, for a message.
pub(super) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() { String::new() } else { format!(": {line}") }
}
