//! ONNX models, computed by tract on the calling thread.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use downbeat_link::{DataType, FailureKind, SequencePlace, Tensor, TensorSpec};
use tract_onnx::prelude::tract_itertools::Itertools;
use tract_onnx::prelude::{
    DatumType, Framework, InferenceModel, InferenceModelExt, IntoRunnable, IntoTValue, IntoTensor,
    OutletId, Symbol, TDim, TValue, TVec, ToDim, TractResult, TypedModel, TypedSimplePlan,
    TypedSimpleState,
};
use tract_onnx::tract_hir::infer::{Factoid, ShapeFactoid};

use super::{Face, Failure, Model, guarded};

/// Name and version, for people.
const ENGINE: &str = "tract 0.23";

/// A loaded model.
pub struct TractModel {
    face: Face,
    /// For any sizes of the open dimensions.
    general: Plan,
    /// For one item, where items are counted: the common case, and the engine does better when it
    /// knows the sizes.
    single: Option<Plan>,
}

/// What is computed, and the buffers for it.
struct Plan {
    plan: Arc<TypedSimplePlan>,
    /// Absent after a panic, which may have left it half-done.
    state: Option<TypedSimpleState>,
}

impl TractModel {
    /// Of a file's contents.
    pub fn load(file: &Path, bytes: &[u8]) -> anyhow::Result<Self> {
        // What the file says of the outputs' shapes may contradict what follows from the inputs'.
        let onnx = tract_onnx::onnx().with_ignore_output_shapes(true);
        let proto = onnx.proto_model_for_read(&mut &*bytes).context("it is no ONNX model")?;
        let folder = file.parent().and_then(Path::to_str);
        let parsed = onnx.parse(&proto, folder).context("it is no ONNX model")?;
        if let Some(missing) = parsed.unresolved_inputs.first() {
            bail!("something in it reads `{missing}`, which is nowhere");
        }
        let mut model = parsed.model;
        name_open_dimensions(&mut model)?;
        let typed = model.into_typed().context("its types and shapes do not fit together")?;
        let inputs = typed.input_outlets()?.iter().map(|outlet| {
            let name = typed.node(outlet.node).name.clone();
            spec(name, &typed, *outlet)
        });
        let inputs: Vec<TensorSpec> = inputs.try_collect()?;
        let outputs = typed.output_outlets()?.iter().map(|outlet| {
            let name = typed.outlet_label(*outlet).unwrap_or(&typed.node(outlet.node).name);
            spec(name.to_owned(), &typed, *outlet)
        });
        let outputs: Vec<TensorSpec> = outputs.try_collect()?;
        if inputs.is_empty() || outputs.is_empty() {
            bail!("it has no input or no output");
        }
        let items = items(&typed)?;
        let single = items.as_ref().and_then(|items| {
            let one = HashMap::from([(items.clone(), 1.to_dim())]);
            Plan::new(typed.set_symbols(&one).ok()?).ok()
        });
        let general = Plan::new(typed).context("it cannot be optimised")?;
        let batching = items.is_some();
        let face = Face { engine: ENGINE.into(), inputs, outputs, batching };
        Ok(Self { face, general, single })
    }
}

/// Gives a name to each dimension that the file leaves open: without one tract does not know that
/// the size is the same wherever it goes. Open first dimensions are taken for one and the same, the
/// number of items.
fn name_open_dimensions(model: &mut InferenceModel) -> anyhow::Result<()> {
    let items = model.symbols.new_with_prefix("items");
    for index in 0..model.input_outlets()?.len() {
        let name = model.node(model.input_outlets()?[index].node).name.clone();
        let mut fact = model.input_fact(index)?.clone();
        if fact.shape.is_open() {
            bail!("the file says no shape for its input `{name}`; export it with one");
        }
        let dims = fact.shape.dims().enumerate().map(|(at, dim)| match dim.concretize() {
            Some(known) => known,
            None if at == 0 => items.to_dim(),
            None => model.symbols.new_with_prefix("size").to_dim(),
        });
        let dims: TVec<TDim> = dims.collect();
        fact.shape = ShapeFactoid::from(dims);
        model.set_input_fact(index, fact)?;
    }
    Ok(())
}

fn spec(name: String, model: &TypedModel, outlet: OutletId) -> anyhow::Result<TensorSpec> {
    let fact = model.outlet_fact(outlet)?;
    let datatype = datatype(fact.datum_type)
        .ok_or_else(|| anyhow!("`{name}` is {:?}, which is not supported", fact.datum_type))?;
    let shape = fact.shape.iter().map(|dim| dim.to_i64().unwrap_or(-1)).collect();
    Ok(TensorSpec { name, datatype, shape })
}

/// The symbol that counts items, where there is one: the first dimension of every input and output,
/// and no part of any other.
fn items(model: &TypedModel) -> anyhow::Result<Option<Symbol>> {
    let mut found = None;
    for outlet in model.input_outlets()?.iter().chain(model.output_outlets()?) {
        let shape = &model.outlet_fact(*outlet)?.shape;
        let Some(TDim::Sym(symbol)) = shape.iter().next() else { return Ok(None) };
        let symbol = found.get_or_insert_with(|| symbol.clone());
        let elsewhere = shape.iter().skip(1).any(|dim| dim.symbols().contains(symbol));
        if shape.iter().next() != Some(&symbol.to_dim()) || elsewhere {
            return Ok(None);
        }
    }
    Ok(found)
}

impl Plan {
    fn new(model: TypedModel) -> TractResult<Self> {
        let plan = model.into_optimized()?.into_runnable()?;
        let state = Some(plan.spawn()?);
        Ok(Self { plan, state })
    }

    fn run(&mut self, inputs: TVec<TValue>) -> Result<TVec<TValue>, Failure> {
        let failure = |error| Failure::new(FailureKind::Engine, format!("tract: {error}"));
        let mut state = match self.state.take() {
            Some(state) => state,
            None => self.plan.spawn().map_err(|error| failure(format!("{error:#}")))?,
        };
        let result = guarded(|| {
            // Sizes that contradict each other show here.
            state.set_inputs(inputs).map_err(|error| {
                Failure::new(FailureKind::Invalid, format!("the inputs do not fit: {error:#}"))
            })?;
            let outputs = state.exec().and_then(|()| state.outputs());
            outputs.map_err(|error| failure(format!("{error:#}")))
        });
        match result {
            Ok(result) => {
                // Also after an error, since what it left there would be taken for results.
                if state.reset_turn().is_ok() {
                    self.state = Some(state);
                }
                result
            }
            Err(panic) => Err(failure(format!("it panicked: {panic}"))),
        }
    }
}

impl Model for TractModel {
    fn face(&self) -> &Face {
        &self.face
    }

    fn compute(
        &mut self,
        _sequence: Option<&SequencePlace>,
        inputs: Vec<Tensor>,
    ) -> Result<Vec<Tensor>, Failure> {
        let one = inputs.iter().all(|input| input.shape.first() == Some(&1));
        let plan = self.single.as_mut().filter(|_| one).unwrap_or(&mut self.general);
        let invalid = |error| Failure::new(FailureKind::Invalid, format!("{error:#}"));
        let values: TVec<TValue> = inputs.iter().map(value).try_collect().map_err(invalid)?;
        let outputs = plan.run(values)?;
        let named = self.face.outputs.iter().zip(outputs);
        let engine = |error| Failure::new(FailureKind::Engine, format!("{error:#}"));
        named.map(|(spec, value)| tensor(spec, value).map_err(engine)).collect()
    }
}

/// A tensor of tract's with the elements of one of ours, copied: theirs are aligned.
fn value(tensor: &Tensor) -> anyhow::Result<TValue> {
    let datum = datum(tensor.datatype)
        .with_context(|| format!("`{}` has a type that tract has not", tensor.name))?;
    let shape: Vec<usize> = tensor.shape.iter().map(|size| usize::try_from(*size)).try_collect()?;
    // SAFETY: every value of these bytes is one of the type: numbers, and bools that were checked to
    // be 0 or 1. `from_raw_dt` compares the length with shape and type itself.
    let value = unsafe { tract_onnx::prelude::Tensor::from_raw_dt(datum, &shape, &tensor.data) };
    Ok(value?.into_tvalue())
}

/// One of tract's tensors as one of ours, in the same memory.
fn tensor(spec: &TensorSpec, value: TValue) -> anyhow::Result<Tensor> {
    struct Elements(tract_onnx::prelude::Tensor);
    impl AsRef<[u8]> for Elements {
        fn as_ref(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }
    let mut value = value.into_tensor();
    if value.datum_type() == DatumType::TDim {
        value = value.cast_to::<i64>()?.into_owned();
    }
    let datatype = datatype(value.datum_type())
        .with_context(|| format!("output `{}` came as {:?}", spec.name, value.datum_type()))?;
    let shape = value.shape().iter().map(|size| *size as u64).collect();
    let data = Bytes::from_owner(Elements(value));
    Ok(Tensor { name: spec.name.clone(), datatype, shape, data })
}

/// Of a declaration. Sizes that tract computes with are integers outside.
fn datatype(datum: DatumType) -> Option<DataType> {
    Some(match datum {
        DatumType::Bool => DataType::Bool,
        DatumType::U8 => DataType::Uint8,
        DatumType::U16 => DataType::Uint16,
        DatumType::U32 => DataType::Uint32,
        DatumType::U64 => DataType::Uint64,
        DatumType::I8 => DataType::Int8,
        DatumType::I16 => DataType::Int16,
        DatumType::I32 => DataType::Int32,
        DatumType::I64 | DatumType::TDim => DataType::Int64,
        DatumType::F16 => DataType::Fp16,
        DatumType::F32 => DataType::Fp32,
        DatumType::F64 => DataType::Fp64,
        _ => return None,
    })
}

fn datum(datatype: DataType) -> Option<DatumType> {
    Some(match datatype {
        DataType::Bool => DatumType::Bool,
        DataType::Uint8 => DatumType::U8,
        DataType::Uint16 => DatumType::U16,
        DataType::Uint32 => DatumType::U32,
        DataType::Uint64 => DatumType::U64,
        DataType::Int8 => DatumType::I8,
        DataType::Int16 => DatumType::I16,
        DataType::Int32 => DatumType::I32,
        DataType::Int64 => DatumType::I64,
        DataType::Fp16 => DatumType::F16,
        DataType::Fp32 => DatumType::F32,
        DataType::Fp64 => DatumType::F64,
        DataType::Bf16 | DataType::Bytes => return None,
    })
}

#[cfg(test)]
#[path = "tract_tests.rs"]
mod tests;
