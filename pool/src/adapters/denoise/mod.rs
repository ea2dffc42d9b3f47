//! The noise remover as a model: it takes one tensor `pcm` and gives one, `denoised`, of the same
//! type and shape. A request is a recording of its own: nothing is kept between two requests. It
//! goes through the worker's stream socket, where live streams connect to, as a stream of its own.

mod sound;
mod stream;

use std::path::PathBuf;
use std::time::Duration;

use downbeat_link::{DataType, Tensor, TensorSpec};
use tracing::warn;

use super::AdapterError;
use crate::apart::apart;
use crate::inference::{Metadata, Refusal, Request};
pub use sound::Extent;
use sound::{INPUT, OUTPUT, Sound};
use stream::StreamError;

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
        let inputs = request.inputs.clone();
        let bytes = inputs.iter().map(|input| input.data.len()).sum();
        let mut sound = apart(bytes, move || Sound::of(&inputs)).await??;
        let clean = stream::denoise(&self.socket, self.deadline, sound.channels, &sound.samples);
        sound.samples = match clean.await {
            Ok(clean) => clean,
            Err(error) => return Err(self.told(&error).await),
        };
        Ok(vec![apart(bytes, move || sound.tensor()).await?])
    }

    /// What it means for a request that its stream failed.
    async fn told(&self, error: &StreamError) -> AdapterError {
        let name = &self.name;
        let refusal = match error {
            StreamError::Gone(_) => return AdapterError::Lost(error.to_string()),
            StreamError::Closed { .. } if stream::ends(&self.socket).await => {
                return AdapterError::Lost(error.to_string());
            }
            StreamError::Closed { answered: false } => Refusal::Unavailable(format!(
                "model `{name}`: it has as many streams open as it takes; try again"
            )),
            StreamError::Closed { answered: true } | StreamError::Failed(_) => {
                warn!(worker = name, "a recording failed: {error}");
                Refusal::Failed(format!("model `{name}`: {error}; try again"))
            }
        };
        refusal.into()
    }
}
