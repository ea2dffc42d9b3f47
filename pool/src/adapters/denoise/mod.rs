//! The noise remover as a model: it takes one tensor `pcm` and gives one, `denoised`, of the same
//! type and shape. A request is a recording of its own: nothing is kept between two requests. It
//! goes through the worker's stream socket, where live streams connect to, as a stream of its own.

mod sound;
mod stream;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use downbeat_link::{DataType, Tensor, TensorSpec};
use tokio::task::JoinError;
use tracing::warn;

use super::AdapterError;
use crate::inference::{Metadata, Refusal, Request};
pub use sound::Extent;
use sound::{INPUT, OUTPUT, Sound};
use stream::{Line, StreamError};

/// The one version.
const VERSION: &str = "1";

/// What it takes and gives.
#[must_use]
pub fn metadata(name: &str) -> Metadata {
    let tensor = |name: &str| TensorSpec {
        name: name.into(),
        datatype: DataType::Fp32,
        shape: vec![-1, -1],
    };
    Metadata {
        name: name.into(),
        versions: vec![VERSION.into()],
        platform: "downbeat_rnnoise".into(),
        inputs: vec![tensor(INPUT)],
        outputs: vec![tensor(OUTPUT)],
        max_rows: None,
        sound: None,
    }
}

/// Whether a request is one; what it holds.
///
/// # Errors
/// [`Refusal::Invalid`].
pub fn check(request: &Request) -> Result<Extent, Refusal> {
    if let Some(other) = request.outputs.iter().find(|name| *name != OUTPUT) {
        return Err(Refusal::Invalid(format!(
            "there is no output `{other}`; the model gives `{OUTPUT}`"
        )));
    }
    Extent::of(&request.inputs)
}

/// One instance.
#[derive(Debug)]
pub struct DenoiseWorker {
    name: String,
    socket: PathBuf,
    /// Of one frame.
    deadline: Option<Duration>,
}

impl DenoiseWorker {
    /// The one that serves `socket`.
    #[must_use]
    pub fn new(name: &str, socket: PathBuf, deadline: Option<Duration>) -> Self {
        Self { name: name.into(), socket, deadline }
    }

    pub(super) async fn infer(&self, request: &Request) -> Result<Vec<Tensor>, AdapterError> {
        let name = self.name.clone();
        let line = Line::new().map_err(|error| {
            Refusal::Failed(format!("model `{name}`: socket(AF_UNIX): {error}"))
        })?;
        let line = Ended(Arc::new(line));
        let (own, inputs) = (Arc::clone(&line.0), request.inputs.clone());
        let (path, deadline) = (self.socket.clone(), self.deadline);
        // What is computed here takes milliseconds for a long recording, and the stream blocks.
        let work = move || {
            let sound = Sound::of(&inputs)?;
            let clean = stream::denoise(&own, &path, deadline, sound.channels, &sound.samples);
            let clean = clean.map_err(|error| told(&name, &error, &path, &own))?;
            Ok(vec![sound.with(clean).tensor()])
        };
        let ended = |error: JoinError| {
            Err(Refusal::Failed(format!("model `{}`: {error}", self.name)).into())
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(ended)
    }
}

/// What it means for a request that its stream to the worker `name` failed. Blocks.
fn told(name: &str, error: &StreamError, path: &Path, line: &Line) -> AdapterError {
    let refusal = match error {
        StreamError::Gone(_) => return AdapterError::Lost(error.to_string()),
        StreamError::Closed { .. } if stream::ends(path, line) => {
            return AdapterError::Lost(error.to_string());
        }
        StreamError::Closed { answered: false } => Refusal::Unavailable(format!(
            "model `{name}`: it has as many streams open as it takes; try again"
        )),
        StreamError::Closed { answered: true } | StreamError::Failed(_) => {
            if !line.is_over() {
                warn!(worker = name, "a recording failed: {error}");
            }
            Refusal::Failed(format!("model `{name}`: {error}; try again"))
        }
    };
    refusal.into()
}

/// Ends the work of a request that is given up.
struct Ended(Arc<Line>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end();
    }
}
