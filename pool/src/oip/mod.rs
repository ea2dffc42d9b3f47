//! The Open Inference Protocol, version 2, over REST and gRPC: what both have in common.
//!
//! A model is a built-in worker. It takes one tensor `pcm` and gives one, `denoised`, of the same
//! type and shape: `[samples]` or `[samples, channels]` at 48 kHz, where the samples are whole
//! frames of 480. A request is a recording of its own: nothing is kept between two requests.

mod grpc;
mod rest;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::run::Servers;
use crate::view::{Model, View};

/// Name in the server's metadata.
const SERVER_NAME: &str = "downbeat-pool";

/// Name of the one input.
const INPUT: &str = "pcm";

/// Name of the one output.
const OUTPUT: &str = "denoised";

/// What runs the model.
const PLATFORM: &str = "downbeat_rnnoise";

/// Samples of one channel in one frame.
const FRAME: usize = 480;

/// Channels of a request.
const MAX_CHANNELS: usize = 64;

/// Samples of one channel in one request: ten seconds.
const MAX_SAMPLES: usize = 1000 * FRAME;

/// Bytes of a request over either protocol.
const MAX_BODY: usize = 4 << 20;

/// Requests that are computed at a time; a few more wait for [`PATIENCE`].
const MAX_BUSY: usize = 8;

/// How long a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a request is not answered as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    /// There is no such model.
    #[error("{0}")]
    NotFound(String),
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Not now.
    #[error("{0}")]
    Unavailable(String),
    /// The worker failed.
    #[error("{0}")]
    Failed(String),
}

/// Type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DataType {
    /// −1 to 1.
    Fp32,
    /// Full scale.
    Int16,
}

impl DataType {
    fn parse(name: &str) -> Result<Self, Refusal> {
        match name {
            "FP32" => Ok(Self::Fp32),
            "INT16" => Ok(Self::Int16),
            other => Err(Refusal::Invalid(format!(
                "input `{INPUT}` has datatype {other}; send FP32 (-1 to 1) or INT16"
            ))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "FP32",
            Self::Int16 => "INT16",
        }
    }
}

/// A tensor's shape, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shape {
    dimensions: Vec<i64>,
    channels: usize,
}

impl Shape {
    fn parse(dimensions: &[i64]) -> Result<Self, Refusal> {
        let wrong = || {
            Refusal::Invalid(format!(
                "input `{INPUT}` has shape {dimensions:?}; send [N] or [N, CHANNELS] with N a \
                 multiple of {FRAME} up to {MAX_SAMPLES} and 1 to {MAX_CHANNELS} channels"
            ))
        };
        let size = |dimension: i64| usize::try_from(dimension).map_err(|_| wrong());
        let (samples, channels) = match *dimensions {
            [samples] => (size(samples)?, 1),
            [samples, channels] => (size(samples)?, size(channels)?),
            _ => return Err(wrong()),
        };
        let samples_fit = (FRAME..=MAX_SAMPLES).contains(&samples) && samples % FRAME == 0;
        if !samples_fit || !(1..=MAX_CHANNELS).contains(&channels) {
            return Err(wrong());
        }
        Ok(Self { dimensions: dimensions.to_vec(), channels })
    }

    /// Number of elements.
    fn elements(&self) -> usize {
        // The bounds above keep both factors small and positive.
        self.dimensions.iter().map(|dimension| *dimension as usize).product()
    }
}

/// Sound in a request or an answer, interleaved.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sound {
    datatype: DataType,
    shape: Shape,
    samples: Vec<i16>,
}

impl Sound {
    /// From elements that are numbers of the given type.
    fn new(datatype: DataType, shape: Shape, elements: &[f64]) -> Result<Self, Refusal> {
        if elements.len() != shape.elements() {
            return Err(Refusal::Invalid(format!(
                "input `{INPUT}` has {} elements and its shape {:?} asks for {}",
                elements.len(),
                shape.dimensions,
                shape.elements()
            )));
        }
        let scale = if datatype == DataType::Fp32 { 32_768.0 } else { 1.0 };
        let samples = elements
            .iter()
            .enumerate()
            .map(|(index, element)| match datatype {
                DataType::Int16 if !(-32_768.0..=32_767.0).contains(element) => {
                    Err(Refusal::Invalid(format!(
                        "element {index} of `{INPUT}` is {element}, which is no INT16"
                    )))
                }
                _ if !element.is_finite() => Err(Refusal::Invalid(format!(
                    "element {index} of `{INPUT}` is {element}; a sample is a finite number"
                ))),
                // `as` saturates: what is louder than full scale is clipped.
                _ => Ok((element * scale).round() as i16),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { datatype, shape, samples })
    }

    /// Elements as the type says, for FP32.
    fn floats(&self) -> impl Iterator<Item = f32> {
        self.samples.iter().map(|sample| f32::from(*sample) / 32_768.0)
    }
}

/// Both servers' core.
#[derive(Clone, Debug)]
struct Service {
    view: View,
    free: Arc<Semaphore>,
}

impl Service {
    fn new(view: View) -> Self {
        Self { view, free: Arc::new(Semaphore::new(MAX_BUSY)) }
    }

    /// Whether all models are ready.
    fn ready(&self) -> bool {
        self.view.lock().models.values().all(|model| model.ready)
    }

    fn model(&self, name: &str, version: &str) -> Result<Model, Refusal> {
        let snapshot = self.view.lock();
        if let Some(model) = snapshot.models.get(name) {
            if version.is_empty() {
                return Ok(model.clone());
            }
            return Err(Refusal::NotFound(format!(
                "model `{name}` has no version `{version}`; leave the version out"
            )));
        }
        if snapshot.status.workers.iter().any(|worker| worker.name == name) {
            return Err(Refusal::NotFound(format!(
                "`{name}` is an external command; only built-in workers are models"
            )));
        }
        let known: Vec<_> = snapshot.models.keys().map(String::as_str).collect();
        Err(Refusal::NotFound(match known.as_slice() {
            [] => format!("no model `{name}`; pool.d declares none"),
            known => format!("no model `{name}`; those of pool.d: {}", known.join(", ")),
        }))
    }

    async fn infer(&self, name: &str, version: &str, sound: Sound) -> Result<Sound, Refusal> {
        let model = self.model(name, version)?;
        if !model.ready {
            return Err(Refusal::Unavailable(format!("model `{name}` is not ready; try again")));
        }
        let turn = timeout(PATIENCE, Arc::clone(&self.free).acquire_owned()).await;
        let Ok(Ok(permit)) = turn else {
            return Err(Refusal::Unavailable("too many requests at a time; try again".into()));
        };
        let answer = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let samples = stream::denoise(
                &model.socket,
                model.deadline,
                sound.shape.channels,
                &sound.samples,
            )?;
            Ok(Sound { samples, ..sound })
        });
        match answer.await {
            Ok(Ok(sound)) => Ok(sound),
            Ok(Err(error)) => Err(stream_refusal(name, &error)),
            Err(error) => Err(Refusal::Failed(error.to_string())),
        }
    }
}

fn stream_refusal(name: &str, error: &std::io::Error) -> Refusal {
    warn!(worker = name, "inference failed: {error}");
    Refusal::Failed(format!("model `{name}`: {error}; its worker may just have died, try again"))
}

fn check_outputs<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<(), Refusal> {
    match names.into_iter().find(|name| *name != OUTPUT) {
        Some(other) => Err(Refusal::Invalid(format!(
            "there is no output `{other}`; the model gives `{OUTPUT}`"
        ))),
        None => Ok(()),
    }
}

/// The one input that a request must have.
fn only_input<T>(inputs: Vec<T>, name: impl Fn(&T) -> &str) -> Result<T, Refusal> {
    let [input] = <[T; 1]>::try_from(inputs).map_err(|inputs| {
        Refusal::Invalid(format!("{} inputs; the model takes one, `{INPUT}`", inputs.len()))
    })?;
    let given = name(&input);
    if given == INPUT {
        return Ok(input);
    }
    Err(Refusal::Invalid(format!("there is no input `{given}`; the model takes `{INPUT}`")))
}

/// Starts the servers. One that gets no address is left out and said so; the pool goes on.
pub async fn serve(view: View, rest: Option<SocketAddr>, grpc: Option<SocketAddr>) -> Servers {
    let mut servers = Servers::default();
    let service = Service::new(view);
    if let Some((listener, address)) = listen("--rest", rest, &mut servers.problems).await {
        servers.rest = Some(address);
        let router = rest::router(service.clone());
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                error!("REST server: {error}");
            }
        });
    }
    if let Some((listener, address)) = listen("--grpc", grpc, &mut servers.problems).await {
        servers.grpc = Some(address);
        tokio::spawn(async move {
            if let Err(error) = grpc::serve(listener, service).await {
                error!("gRPC server: {error}");
            }
        });
    }
    servers
}

async fn listen(
    option: &str,
    address: Option<SocketAddr>,
    problems: &mut Vec<String>,
) -> Option<(TcpListener, String)> {
    let address = address?;
    match TcpListener::bind(address).await {
        Ok(listener) => {
            let address = listener.local_addr().unwrap_or(address);
            info!("{option}: listens on {address}");
            if !address.ip().is_loopback() {
                warn!(
                    "{option}: {address} is open to the network, and nobody is asked who they are"
                );
            }
            Some((listener, address.to_string()))
        }
        Err(error) => {
            let problem = format!(
                "{option} {address}: {error}; give another address or `{option} off` (`ss -ltnp` \
                 shows who has it)"
            );
            warn!("{problem}");
            problems.push(problem);
            None
        }
    }
}

#[cfg(test)]
mod tests;
