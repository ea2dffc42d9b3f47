//! ONNX models, computed by ONNX Runtime: a library that lies on the host and is loaded when the
//! first such model is.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use downbeat_link::{DataType, FailureKind, SequencePlace, Tensor, TensorSpec};
use ort::environment::Environment;
use ort::memory::Allocator;
use ort::session::builder::BuilderResult;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynTensor, DynValue, Outlet, TensorElementType, ValueType};

use super::{Face, Failure, Model};

/// The library where nothing names one; the linker looks in its usual folders.
const LIBRARY: &str = "libonnxruntime.so";

/// Names the library, as every program with ONNX Runtime has it.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// A loaded model.
pub struct OrtModel {
    face: Face,
    session: Session,
}

/// The library, once it is loaded: a process has one.
static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();

fn environment(library: Option<&Path>) -> anyhow::Result<&'static Environment> {
    if let Some(environment) = ENVIRONMENT.get() {
        return Ok(environment);
    }
    let named = library.map(Path::to_owned);
    let named = named.or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from));
    let named = named.filter(|path| !path.as_os_str().is_empty());
    let path = named.unwrap_or_else(|| LIBRARY.into());
    let remedy = || {
        format!(
            "{}: no library of ONNX Runtime 1.17 or newer; name one with `env = {{ {VARIABLE} = \
             \"/path/{LIBRARY}\" }}` in pool.d, or choose `engine = \"tract\"`",
            path.display()
        )
    };
    let builder = ort::init_from(&path).map_err(|error| anyhow!("{error}")).with_context(remedy)?;
    let environment = builder.with_telemetry(false).with_name("downbeat").build();
    let environment = environment.map_err(|error| anyhow!("{error}")).with_context(remedy)?;
    Ok(ENVIRONMENT.get_or_init(|| environment))
}

impl OrtModel {
    /// Of a file's contents.
    pub fn load(bytes: &[u8], library: Option<&Path>, threads: u16) -> anyhow::Result<Self> {
        let environment = environment(library)?;
        let failed = |error: &dyn std::fmt::Display| anyhow!("ONNX Runtime: {error}");
        let builder = Session::builder(environment).map_err(|error| failed(&error))?;
        // Threads that spin while they wait take the processor from those that have work.
        let set = |done: BuilderResult| done.map_err(|error| failed(&error));
        let builder = set(builder.with_intra_threads(usize::from(threads.max(1))))?;
        let builder = set(builder.with_inter_threads(1))?;
        let builder = set(builder.with_parallel_execution(false))?;
        let mut builder = set(builder.with_intra_op_spinning(false))?;
        let session = builder.commit_from_memory(bytes).map_err(|error| failed(&error))?;
        let specs = |outlets: &[Outlet]| outlets.iter().map(spec).collect::<anyhow::Result<_>>();
        let (inputs, outputs): (Vec<_>, Vec<_>) =
            (specs(session.inputs())?, specs(session.outputs())?);
        if inputs.is_empty() || outputs.is_empty() {
            bail!("it has no input or no output");
        }
        let engine = format!("onnxruntime {}", version());
        let batching = counts_items(session.inputs()) && counts_items(session.outputs());
        let face = Face { engine, inputs, outputs, batching };
        Ok(Self { face, session })
    }
}

/// Of the library, by the commit that it was built from: it tells no number of its own.
fn version() -> String {
    let parts = ort::info().split(", ");
    let commit = parts.filter_map(|part| part.strip_prefix("git-commit-id=")).next();
    commit.map(|commit| format!("of commit {commit}")).unwrap_or_default()
}

/// Whether the first dimension of each is open and no other is: then it counts items.
fn counts_items(outlets: &[Outlet]) -> bool {
    outlets.iter().all(|outlet| match outlet.dtype() {
        ValueType::Tensor { shape, .. } => {
            shape.first() == Some(&-1) && shape.iter().skip(1).all(|size| *size >= 0)
        }
        _ => false,
    })
}

fn spec(outlet: &Outlet) -> anyhow::Result<TensorSpec> {
    let name = outlet.name().to_owned();
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        bail!("`{name}` is no tensor, and only tensors are supported");
    };
    let datatype = datatype(*ty).with_context(|| format!("`{name}` is {ty:?}, not supported"))?;
    Ok(TensorSpec { name, datatype, shape: shape.to_vec() })
}

impl Model for OrtModel {
    fn face(&self) -> &Face {
        &self.face
    }

    fn compute(
        &mut self,
        _sequence: Option<&SequencePlace>,
        inputs: Vec<Tensor>,
    ) -> Result<Vec<Tensor>, Failure> {
        let invalid = |error| Failure::new(FailureKind::Invalid, format!("{error:#}"));
        let values: Vec<SessionInputValue<'_>> = inputs
            .iter()
            .map(|input| value(input).map(SessionInputValue::from))
            .collect::<anyhow::Result<_>>()
            .map_err(invalid)?;
        let failed = |error: String| Failure::new(FailureKind::Engine, error);
        let outputs = self.session.run(&values[..]);
        let outputs = outputs.map_err(|error| failed(format!("ONNX Runtime: {error}")))?;
        let named = self.face.outputs.iter().zip(outputs);
        named
            .map(|(spec, (_, value))| tensor(spec, value).map_err(|why| failed(format!("{why:#}"))))
            .collect()
    }
}

/// One of its tensors with the elements of one of ours, copied: theirs are aligned.
fn value(tensor: &Tensor) -> anyhow::Result<DynTensor> {
    let kind = element(tensor.datatype)
        .with_context(|| format!("`{}` has a type that is not supported", tensor.name))?;
    let shape: Vec<i64> =
        tensor.shape.iter().map(|size| i64::try_from(*size)).collect::<Result<_, _>>()?;
    let mut value = DynTensor::new(&Allocator::default(), kind, shape)
        .map_err(|error| anyhow!("ONNX Runtime: {error}"))?;
    tensor.check()?;
    // SAFETY: the library has allocated this tensor with the type and shape above, which have as many
    // bytes as ours, as `check` has just compared; every value of them is one of the type: numbers, and
    // bools that were checked to be 0 or 1. Nobody else knows of it yet.
    unsafe {
        let to = value.data_ptr_mut().cast::<u8>();
        std::ptr::copy_nonoverlapping(tensor.data.as_ptr(), to, tensor.data.len());
    }
    Ok(value)
}

/// One of its tensors as one of ours, copied: theirs goes back to the library's arena.
fn tensor(spec: &TensorSpec, value: DynValue) -> anyhow::Result<Tensor> {
    let name = spec.name.clone();
    let value: DynTensor =
        value.downcast().map_err(|error| anyhow!("output `{name}` is no tensor: {error}"))?;
    let ValueType::Tensor { ty, .. } = value.dtype() else {
        bail!("output `{name}` is no tensor");
    };
    let ty = *ty;
    let datatype = datatype(ty).with_context(|| format!("output `{name}` came as {ty:?}"))?;
    let shape: Vec<u64> =
        value.shape().iter().map(|size| u64::try_from(*size)).collect::<Result<_, _>>()?;
    let elements = downbeat_link::elements(&shape).context("its shape overflows")?;
    let size = datatype.size().context("it has no fixed size")? as u64;
    let length = usize::try_from(elements.checked_mul(size).context("its shape overflows")?)?;
    let data = if length == 0 {
        Bytes::new()
    } else {
        // SAFETY: a tensor of the library on the CPU has its elements, of the type and shape that it
        // says itself, one behind the other at this address, for as long as the value lives.
        Bytes::copy_from_slice(unsafe {
            std::slice::from_raw_parts(value.data_ptr().cast::<u8>(), length)
        })
    };
    Ok(Tensor { name, datatype, shape, data })
}

/// The types that both have.
const TYPES: [(DataType, TensorElementType); 13] = [
    (DataType::Bool, TensorElementType::Bool),
    (DataType::Uint8, TensorElementType::Uint8),
    (DataType::Uint16, TensorElementType::Uint16),
    (DataType::Uint32, TensorElementType::Uint32),
    (DataType::Uint64, TensorElementType::Uint64),
    (DataType::Int8, TensorElementType::Int8),
    (DataType::Int16, TensorElementType::Int16),
    (DataType::Int32, TensorElementType::Int32),
    (DataType::Int64, TensorElementType::Int64),
    (DataType::Fp16, TensorElementType::Float16),
    (DataType::Fp32, TensorElementType::Float32),
    (DataType::Fp64, TensorElementType::Float64),
    (DataType::Bf16, TensorElementType::Bfloat16),
];

fn datatype(kind: TensorElementType) -> Option<DataType> {
    TYPES.iter().find(|(_, theirs)| *theirs == kind).map(|(ours, _)| *ours)
}

fn element(datatype: DataType) -> Option<TensorElementType> {
    TYPES.iter().find(|(ours, _)| *ours == datatype).map(|(_, theirs)| *theirs)
}
