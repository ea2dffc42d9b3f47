//! Workers that have no channel as models: tensors to what they understand, and what they answer to
//! tensors.

pub mod denoise;
mod http;
mod oip;
mod stdio;

use std::time::Duration;

use bytes::Bytes;
use downbeat_link::{DataType, Tensor, TensorSpec};

use crate::config::{self, WorkerConfig};
use crate::inference::{Refusal, Request};
use crate::launch::Home;

pub use denoise::DenoiseWorker;
pub use http::{HttpWorker, answers};
pub use oip::OipWorker;
pub use stdio::StdioWorker;

/// Bytes of an answer, at most.
const MAX_ANSWER: usize = 64 << 20;

/// Why a worker gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// It gives this one instead.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is not there any more, as far as can be seen: the request can run on another.
    #[error("{0}")]
    Lost(String),
}

/// One that was told to end closes its connections first, and half a second later whatever it
/// listens on.
const FAREWELL: Duration = Duration::from_millis(600);

/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// One worker.
#[derive(Debug)]
pub enum Adapter {
    /// The built-in noise remover.
    Denoise(DenoiseWorker),
    /// A server of HTTP.
    Http(HttpWorker),
    /// A program that reads its standard input.
    Stdio(Box<StdioWorker>),
    /// Another server of the Open Inference Protocol.
    Oip(OipWorker),
}

impl Adapter {
    /// For one instance of an external worker; nothing for one without an adapter. `port` is that of
    /// the instance, `home` is for the processes that are started for it.
    #[must_use]
    pub fn new(
        config: &WorkerConfig,
        port: Option<u16>,
        home: impl FnOnce() -> Home,
    ) -> Option<Self> {
        let adapter = config.adapter.as_ref()?;
        let base = || match (adapter.url(), port.or_else(|| adapter.port())) {
            (Some(url), _) => url.to_owned(),
            (None, Some(port)) => format!("http://127.0.0.1:{port}"),
            (None, None) => "http://127.0.0.1".into(),
        };
        Some(match adapter {
            config::Adapter::Http(http) => Self::Http(HttpWorker::new(config, http, base())),
            config::Adapter::Oip(oip) => Self::Oip(OipWorker::new(config, oip, base())),
            config::Adapter::Stdio(stdio) => {
                Self::Stdio(Box::new(StdioWorker::new(config, *stdio, home())))
            }
        })
    }

    /// Answers one request. To drop the future is to give it up: a connection is closed, a process
    /// that works for this request alone is killed.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] where the request is wrong, [`Refusal::Unavailable`] where the worker
    /// cannot be reached or its program is not installed, [`Refusal::Failed`] where it fails;
    /// [`AdapterError::Lost`] where a process of the pool's own has ended.
    pub async fn infer(&self, request: &Request) -> Result<Vec<Tensor>, AdapterError> {
        match self {
            Self::Denoise(denoise) => denoise.infer(request).await,
            Self::Http(http) => http.infer(request).await,
            Self::Stdio(stdio) => Ok(stdio.infer(request).await?),
            Self::Oip(oip) => oip.infer(request).await,
        }
    }
}

/// What workers without declared tensors take.
#[must_use]
pub fn default_input() -> TensorSpec {
    TensorSpec { name: "input".into(), datatype: DataType::Bytes, shape: vec![1] }
}

/// What workers without declared tensors give.
#[must_use]
pub fn default_output() -> TensorSpec {
    TensorSpec { name: "output".into(), datatype: DataType::Bytes, shape: vec![1] }
}

/// The bytes of an input: of a single string without its length, of anything else as they are.
fn payload(tensor: &Tensor) -> Bytes {
    if tensor.datatype == DataType::Bytes
        && let Some((length, _)) = tensor.data.split_first_chunk::<4>()
        && tensor.data.len() - 4 == u32::from_le_bytes(*length) as usize
    {
        return tensor.data.slice(4..);
    }
    tensor.data.clone()
}

fn first_input(request: &Request) -> Result<Bytes, Refusal> {
    let first = request.inputs.first();
    first.map(payload).ok_or_else(|| Refusal::Invalid("the request has no input".into()))
}

/// An answer's bytes as the output that is declared: a single string, or elements whose number
/// follows from the bytes where the shape leaves one dimension open.
fn output(spec: &TensorSpec, data: Bytes) -> Result<Tensor, String> {
    let (name, datatype) = (spec.name.clone(), spec.datatype);
    let Some(size) = datatype.size() else {
        let length = u32::try_from(data.len()).map_err(|_| "the answer is too long".to_owned())?;
        let mut string = Vec::with_capacity(data.len() + 4);
        string.extend_from_slice(&length.to_le_bytes());
        string.extend_from_slice(&data);
        return Ok(Tensor { name, datatype, shape: vec![1], data: string.into() });
    };
    let known: u64 =
        spec.shape.iter().filter_map(|size| u64::try_from(*size).ok()).product::<u64>().max(1);
    let elements = data.len() as u64 / size as u64;
    let shape = spec.shape.iter().map(|size| u64::try_from(*size).unwrap_or(elements / known));
    let tensor = Tensor { name, datatype, shape: shape.collect(), data };
    tensor.check().map_err(|error| format!("the worker's answer does not fit: {error}"))?;
    Ok(tensor)
}

#[cfg(test)]
pub(crate) mod tests;
