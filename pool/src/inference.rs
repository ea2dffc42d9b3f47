//! One request to a model and its answer, whichever protocol they came by: the servers make the
//! first and write the second, the dispatcher stands between.

use std::time::{Duration, Instant};

use downbeat_link::{DataType, SharedInput, Tensor, TensorError, TensorSpec};
use downbeat_queue::Cause;

/// A request, checked as far as that is possible without the model.
#[derive(Clone, Debug)]
pub struct Request {
    /// The model's name.
    pub model: String,
    /// Its version; the newest where absent.
    pub version: Option<String>,
    /// Given by the client and given back; may be empty.
    pub id: String,
    /// In the order in which they came.
    pub inputs: Vec<Tensor>,
    /// Further ones, which are in memory that the client shares; behind the others, wherever they
    /// stood.
    pub shared: Vec<SharedInput>,
    /// Names of the outputs that are wanted; all where empty.
    pub outputs: Vec<String>,
    /// What the client asks of the pool.
    pub terms: Terms,
}

/// What is known of an input without its elements.
#[derive(Clone, Copy, Debug)]
pub struct Outline<'a> {
    /// Its name in the model.
    pub name: &'a str,
    /// Of its elements.
    pub datatype: DataType,
    /// Elements per dimension.
    pub shape: &'a [u64],
    /// Of its elements.
    pub bytes: u64,
}

impl Request {
    /// Of all inputs.
    pub fn outlines(&self) -> impl Iterator<Item = Outline<'_>> {
        let inputs = self.inputs.iter().map(|Tensor { name, datatype, shape, data }| Outline {
            name,
            datatype: *datatype,
            shape,
            bytes: data.len() as u64,
        });
        let shared = self.shared.iter().map(|SharedInput { name, datatype, shape, region }| {
            Outline { name, datatype: *datatype, shape, bytes: region.length }
        });
        inputs.chain(shared)
    }
}

/// What a client asks of the pool besides the answer.
#[derive(Clone, Debug)]
pub struct Terms {
    /// When the request came.
    pub arrival: Instant,
    /// When the answer is of no use any more; the model's own deadline where absent.
    pub deadline: Option<Instant>,
    /// Between requests of one deadline: smaller goes first; 0 where not given.
    pub priority: u64,
    /// Who asks, for limits per client: an address, a peer's user, or a name that it gave.
    pub client: String,
    /// The sequence that it belongs to.
    pub sequence: Option<Sequence>,
    /// W3C trace context, as it came.
    pub traceparent: Option<String>,
    /// The id of the request on whose behalf it is made: it has that one's deadline or an earlier
    /// one, and is refused when that one is over.
    pub parent: Option<String>,
}

impl Terms {
    /// Of a request that asks for nothing, arriving now.
    #[must_use]
    pub fn of(client: impl Into<String>) -> Self {
        Self {
            arrival: Instant::now(),
            deadline: None,
            priority: 0,
            client: client.into(),
            sequence: None,
            traceparent: None,
            parent: None,
        }
    }
}

/// A place in a sequence: its requests go to one worker, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Number or name, unique per model.
    pub id: String,
    /// The first of it.
    pub start: bool,
    /// The last of it.
    pub end: bool,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The version that answered.
    pub version: String,
    /// In the model's order.
    pub outputs: Vec<Tensor>,
    /// Where the time went.
    pub spent: Spent,
}

/// Where a request's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// From its arrival to its start on a worker.
    pub queued: Duration,
    /// On the worker.
    pub computed: Duration,
    /// Requests that were computed together, this one included.
    pub batch: usize,
    /// How long the sound lasts that was computed; absent where that is not known.
    pub sound: Option<Duration>,
}

/// What a model takes and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Name.
    pub name: String,
    /// Versions that can be asked for, the newest last.
    pub versions: Vec<String>,
    /// What runs it, as `tract_onnx`.
    pub platform: String,
    /// In the model's order.
    pub inputs: Vec<TensorSpec>,
    /// In the model's order.
    pub outputs: Vec<TensorSpec>,
    /// Most rows of one request, where the model has such a bound.
    pub max_rows: Option<u32>,
    /// Which of its tensors is sound of one channel, where that is declared.
    pub sound: Option<SoundAt>,
}

/// Where a model has sound as samples (INT16, FP32), and how many of them are a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoundAt {
    /// Its first input.
    Input(u32),
    /// Its first output.
    Output(u32),
}

impl Metadata {
    /// Whether a request has the inputs that the model takes and asks for outputs that it gives.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for the first difference.
    pub fn check(&self, request: &Request) -> Result<(), Refusal> {
        let model = &self.name;
        let names = |specs: &[TensorSpec]| {
            specs.iter().map(|spec| format!("`{}`", spec.name)).collect::<Vec<_>>().join(", ")
        };
        for (place, input) in request.outlines().enumerate() {
            let name = input.name;
            let Some(spec) = self.inputs.iter().find(|spec| spec.name == name) else {
                return Err(Refusal::Invalid(format!(
                    "model `{model}` has no input `{name}`; it takes {}",
                    names(&self.inputs)
                )));
            };
            if request.outlines().take(place).any(|before| before.name == name) {
                return Err(Refusal::Invalid(format!("input `{name}` comes twice")));
            }
            fits(spec, &input).map_err(Refusal::Invalid)?;
            if let (Some(max), Some(&rows)) = (self.max_rows, input.shape.first())
                && rows > u64::from(max)
            {
                return Err(Refusal::Invalid(format!(
                    "input `{name}` has {rows} rows; model `{model}` takes {max} at most in one \
                     request (`max_batch` of its model.toml): send the others in another request"
                )));
            }
        }
        let wrong = |error: TensorError| Refusal::Invalid(error.to_string());
        request.inputs.iter().try_for_each(Tensor::check).map_err(wrong)?;
        request.shared.iter().try_for_each(SharedInput::check).map_err(wrong)?;
        let lacks = |spec: &&TensorSpec| request.outlines().all(|it| it.name != spec.name);
        if let Some(missing) = self.inputs.iter().find(lacks) {
            return Err(Refusal::Invalid(format!(
                "input `{}` is missing; model `{model}` takes {}",
                missing.name,
                names(&self.inputs)
            )));
        }
        let unknown = |name: &&String| self.outputs.iter().all(|spec| spec.name != **name);
        match request.outputs.iter().find(unknown) {
            None => Ok(()),
            Some(name) => Err(Refusal::Invalid(format!(
                "model `{model}` has no output `{name}`; it gives {}",
                names(&self.outputs)
            ))),
        }
    }
}

fn fits(spec: &TensorSpec, tensor: &Outline<'_>) -> Result<(), String> {
    let name = tensor.name;
    if tensor.datatype != spec.datatype {
        return Err(format!(
            "input `{name}` has datatype {}; send {}",
            tensor.datatype.name(),
            spec.datatype.name()
        ));
    }
    let same = |(&wanted, &is): (&i64, &u64)| wanted < 0 || wanted.unsigned_abs() == is;
    if tensor.shape.len() == spec.shape.len() && spec.shape.iter().zip(tensor.shape).all(same) {
        return Ok(());
    }
    Err(format!(
        "input `{name}` has shape {:?}; send {:?}, where -1 stands for any size",
        tensor.shape, spec.shape
    ))
}

/// Why a request is not answered as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such model or version.
    #[error("{0}")]
    NotFound(String),
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// It is larger than a request may be.
    #[error("{0}")]
    TooLarge(String),
    /// It could not be answered in time, or the queue or the client's share is full: nothing was
    /// begun.
    #[error("{reason}")]
    Full {
        /// Why, in one word: late, full, the client's share, or shed.
        cause: Cause,
        /// Why, in one line.
        reason: String,
        /// When a like request may be taken.
        retry_after: Duration,
    },
    /// The model is not ready.
    #[error("{0}")]
    Unavailable(String),
    /// The deadline passed before the answer was there.
    #[error("{0}")]
    Expired(String),
    /// The client went away.
    #[error("the client went away")]
    Cancelled,
    /// The worker failed.
    #[error("{0}")]
    Failed(String),
}

impl Refusal {
    /// One word, for labels; every word is listed in the documentation of the metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::Invalid(_) => "invalid",
            Self::TooLarge(_) => "too_large",
            Self::Full { cause: Cause::Late, .. } => "late",
            Self::Full { cause: Cause::ClientShare, .. } => "client_share",
            Self::Full { cause: Cause::Shed, .. } => "shed",
            Self::Full { .. } => "full",
            Self::Unavailable(_) => "unavailable",
            Self::Expired(_) => "expired",
            Self::Cancelled => "cancelled",
            Self::Failed(_) => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use downbeat_link::DataType;

    fn metadata() -> Metadata {
        let spec = |name: &str, shape: &[i64]| TensorSpec {
            name: name.into(),
            datatype: DataType::Fp32,
            shape: shape.to_vec(),
        };
        Metadata {
            name: "m".into(),
            versions: vec!["1".into()],
            platform: "p".into(),
            inputs: vec![spec("a", &[-1, 2]), spec("b", &[1])],
            outputs: vec![spec("y", &[1])],
            max_rows: Some(8),
            sound: None,
        }
    }

    fn input(name: &str, shape: &[u64]) -> Tensor {
        let bytes = shape.iter().product::<u64>() * 4;
        Tensor {
            name: name.into(),
            datatype: DataType::Fp32,
            shape: shape.to_vec(),
            data: vec![0; bytes as usize].into(),
        }
    }

    fn request(inputs: Vec<Tensor>) -> Request {
        Request {
            model: "m".into(),
            version: None,
            id: String::new(),
            inputs,
            shared: Vec::new(),
            outputs: Vec::new(),
            terms: Terms::of("test"),
        }
    }

    #[test]
    fn inputs_in_any_order_are_taken() {
        let taken = request(vec![input("b", &[1]), input("a", &[7, 2])]);
        assert_eq!(metadata().check(&taken), Ok(()));
    }

    #[test]
    fn each_difference_is_named() {
        let integers = Tensor { datatype: DataType::Int32, ..input("b", &[1]) };
        let short = Tensor { data: vec![0; 4].into(), ..input("a", &[1, 2]) };
        let a = || input("a", &[1, 2]);
        let cases = [
            (vec![a()], "input `b` is missing; model `m` takes `a`, `b`"),
            (vec![input("c", &[1])], "no input `c`"),
            (vec![a(), a()], "`a` comes twice"),
            (vec![a(), integers], "datatype INT32; send FP32"),
            (vec![input("a", &[1, 3])], "shape [1, 3]; send [-1, 2]"),
            (vec![input("a", &[2])], "shape [2]; send [-1, 2]"),
            (vec![input("a", &[9, 2])], "9 rows; model `m` takes 8 at most"),
            (vec![short], "has 4 bytes; FP32 with shape [1, 2] has 8"),
        ];
        for (inputs, wanted) in cases {
            let message = metadata().check(&request(inputs)).unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        }
        let other = Request { outputs: vec!["z".into()], ..request(vec![a(), input("b", &[1])]) };
        let message = metadata().check(&other).unwrap_err().to_string();
        assert!(message.contains("no output `z`; it gives `y`"), "{message}");
    }
}
