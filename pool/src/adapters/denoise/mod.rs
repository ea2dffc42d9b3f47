//! The noise remover as a model: it takes one tensor `pcm` and gives one, `denoised`, of the same
//! type and shape. A request is a recording of its own: nothing is kept between two requests. It
//! goes through the worker's stream socket, where live streams connect to, as a stream of its own.

mod sound;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use downbeat_link::{DataType, Tensor, TensorSpec};

use crate::inference::{Metadata, Refusal, Request};
pub use sound::Extent;
use sound::{INPUT, OUTPUT, Sound};

/// The one version.
pub const VERSION: &str = "1";

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

    pub(super) async fn infer(&self, request: &Request) -> Result<Vec<Tensor>, Refusal> {
        let over = Over::default();
        let (inputs, socket, deadline) =
            (request.inputs.clone(), self.socket.clone(), self.deadline);
        let watched = Arc::clone(&over.0);
        let work = move || {
            let sound = Sound::of(&inputs).map_err(Failure::Sound)?;
            let clean =
                stream::denoise(&socket, deadline, sound.channels, &sound.samples, &watched);
            Ok(sound.with(clean.map_err(Failure::Stream)?).tensor())
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(tensor)) => Ok(vec![tensor]),
            Ok(Err(Failure::Sound(refusal))) => Err(refusal),
            Ok(Err(Failure::Stream(error))) => Err(Refusal::Failed(format!(
                "model `{}`: {error}; its worker may just have died, try again",
                self.name
            ))),
            Err(error) => Err(Refusal::Failed(error.to_string())),
        }
    }
}

enum Failure {
    Sound(Refusal),
    Stream(std::io::Error),
}

/// Ends the work of a request that is given up.
#[derive(Default)]
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
