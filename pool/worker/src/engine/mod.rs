//! What computes models, behind one face.

mod check;
mod denoise;
#[cfg(any(feature = "onnx", feature = "ort"))]
mod file;
#[cfg(feature = "ort")]
mod ort;
#[cfg(feature = "onnx")]
mod tract;

use std::any::Any;

use downbeat_link::{Engine, FailureKind, Load, SequencePlace, Tensor, TensorSpec};

/// A loaded model. All of it happens on the calling thread, so that pinning that thread or making
/// it real-time applies to the computation itself.
pub trait Model {
    /// What it takes and gives.
    fn face(&self) -> &Face;

    /// Puts a request's tensors in the model's order.
    ///
    /// # Errors
    /// Why the model does not take them, for the client.
    fn check(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, String> {
        check::fit(&self.face().inputs, inputs)
    }

    /// Computes checked inputs; the outputs are in the model's order.
    ///
    /// # Errors
    /// What the engine says.
    fn compute(
        &mut self,
        sequence: Option<&SequencePlace>,
        inputs: Vec<Tensor>,
    ) -> Result<Vec<Tensor>, Failure>;
}

/// What a model takes and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Face {
    /// What computes it, with its version.
    pub engine: String,
    /// Its inputs, -1 where a dimension may have any size.
    pub inputs: Vec<TensorSpec>,
    /// Its outputs.
    pub outputs: Vec<TensorSpec>,
    /// Whether the first dimension of every tensor counts items that do not depend on each other.
    pub batching: bool,
}

/// Why a request has no outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In one word.
    pub kind: FailureKind,
    /// In a sentence.
    pub reason: String,
}

impl Failure {
    /// Of the given kind.
    pub fn new(kind: FailureKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }
}

/// The engines of this build.
pub fn names() -> Vec<String> {
    let mut names = Vec::new();
    if cfg!(feature = "onnx") {
        names.push("tract".to_owned());
    }
    if cfg!(feature = "ort") {
        names.push("onnxruntime".to_owned());
    }
    names.push("denoise".to_owned());
    names
}

/// Loads a model.
///
/// # Errors
/// Why it cannot be loaded, with the file's path and the remedy.
pub fn load(load: &Load) -> anyhow::Result<Box<dyn Model>> {
    match &load.engine {
        Engine::Denoise => Ok(Box::new(denoise::Recordings::new())),
        #[cfg(feature = "onnx")]
        Engine::Tract => {
            let file = file::model_file(load.path.as_deref())?;
            let load = || tract::TractModel::load(&file, &file::contents(&file, load.sha256)?);
            guarded(load)
                .unwrap_or_else(|panic| Err(anyhow::anyhow!("tract panicked: {panic}")))
                .map(|model| Box::new(model) as Box<dyn Model>)
                .map_err(|error| error.context(format!("{}: cannot be loaded", file.display())))
        }
        #[cfg(not(feature = "onnx"))]
        Engine::Tract => anyhow::bail!(
            "this downbeat-worker was built without tract; build it with its feature `onnx`"
        ),
        #[cfg(feature = "ort")]
        Engine::OnnxRuntime { library } => {
            let file = file::model_file(load.path.as_deref())?;
            let load = || {
                let bytes = file::contents(&file, load.sha256)?;
                ort::OrtModel::load(&bytes, library.as_deref(), load.threads)
            };
            guarded(load)
                .unwrap_or_else(|panic| Err(anyhow::anyhow!("ONNX Runtime panicked: {panic}")))
                .map(|model| Box::new(model) as Box<dyn Model>)
                .map_err(|error| error.context(format!("{}: cannot be loaded", file.display())))
        }
        #[cfg(not(feature = "ort"))]
        Engine::OnnxRuntime { .. } => anyhow::bail!(
            "this downbeat-worker was built without ONNX Runtime; build it with its feature `ort`, \
             or choose the engine `tract`"
        ),
    }
}

/// Calls what may panic; then gives its words.
pub fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    // Whoever calls throws away what a panic may have left half-done.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).map_err(|panic| words(&*panic))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a word").to_owned()
}
