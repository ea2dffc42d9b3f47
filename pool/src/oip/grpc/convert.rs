//! Between gRPC's messages and the pool's requests.

use std::collections::HashMap;

use bytes::Bytes;
use downbeat_link::{DataType, Tensor, checked_shape};
use half::{bf16, f16};

use super::proto::infer_parameter::ParameterChoice;
use super::proto::model_infer_request::InferInputTensor;
use super::proto::model_infer_response::InferOutputTensor;
use super::proto::{InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse};
use crate::inference::{Refusal, Request, Response, Terms};
use crate::oip::parameters::{self, Parameter, Parameters};
use crate::oip::shared::{Place, Placed};

/// A request, and how its answer is to be written.
#[derive(Debug)]
pub struct Read {
    /// Without what is in shared memory.
    pub request: Request,
    pub placed: Vec<Placed>,
    /// Its inputs came as raw contents, or are in shared memory: its outputs go as raw contents.
    pub raw: bool,
}

/// Reads a request.
///
/// # Errors
/// [`Refusal::Invalid`].
pub fn request(message: ModelInferRequest, mut terms: Terms) -> Result<Read, Refusal> {
    let ModelInferRequest {
        model_name,
        model_version,
        id,
        parameters,
        inputs,
        outputs,
        raw_input_contents,
    } = message;
    parameters::terms(&read(parameters), &mut terms)?;
    let mut placed = Vec::new();
    let mut here = Vec::with_capacity(inputs.len());
    for mut input in inputs {
        let parameters = read(std::mem::take(&mut input.parameters));
        parameters::offered(&input.name, &parameters)?;
        match Place::of(&input.name, &parameters)? {
            None => here.push(input),
            Some(place) => placed.push(placed_input(input, place)?),
        }
    }
    let raw = !raw_input_contents.is_empty() || (here.is_empty() && !placed.is_empty());
    if raw && raw_input_contents.len() != here.len() {
        return Err(Refusal::Invalid(format!(
            "{} raw_input_contents for {} inputs that are not in shared memory; give one for each, \
             or none at all",
            raw_input_contents.len(),
            here.len()
        )));
    }
    let mut contents = raw_input_contents.into_iter();
    let mut tensors = Vec::with_capacity(here.len());
    for input in here {
        let name = input.name;
        let datatype = datatype(&name, &input.datatype)?;
        let shape = checked_shape(&name, &input.shape).map_err(invalid)?;
        let data = match (contents.next(), input.contents) {
            (Some(data), None) => data,
            (None, Some(contents)) => typed(&name, datatype, contents)?,
            (None, None) => {
                return Err(Refusal::Invalid(format!(
                    "input `{name}` has no elements: give raw_input_contents or its contents"
                )));
            }
            (Some(_), Some(_)) => {
                return Err(Refusal::Invalid(format!(
                    "input `{name}` has its elements twice: in raw_input_contents and in its \
                     contents"
                )));
            }
        };
        let tensor = Tensor { name, datatype, shape, data };
        tensor.check().map_err(invalid)?;
        tensors.push(tensor);
    }
    let mut wanted = Vec::with_capacity(outputs.len());
    for output in outputs {
        parameters::offered_output(&output.name, &read(output.parameters))?;
        wanted.push(output.name);
    }
    let request = Request {
        model: model_name,
        version: Some(model_version).filter(|version| !version.is_empty()),
        id,
        inputs: tensors,
        shared: Vec::new(),
        outputs: wanted,
        terms,
    };
    Ok(Read { request, placed, raw })
}

fn datatype(input: &str, name: &str) -> Result<DataType, Refusal> {
    DataType::parse(name).ok_or_else(|| {
        let names = DataType::ALL.map(DataType::name).join(", ");
        Refusal::Invalid(format!("input `{input}` has datatype `{name}`, which is none of {names}"))
    })
}

fn placed_input(input: InferInputTensor, place: Place) -> Result<Placed, Refusal> {
    let InferInputTensor { name, datatype: kind, shape, contents, parameters: _ } = input;
    if contents.is_some() {
        return Err(Refusal::Invalid(format!(
            "input `{name}` has its elements twice: in shared memory and in its contents"
        )));
    }
    let datatype = datatype(&name, &kind)?;
    let shape = checked_shape(&name, &shape).map_err(invalid)?;
    Ok(Placed { name, datatype, shape, place })
}

fn invalid(error: impl std::fmt::Display) -> Refusal {
    Refusal::Invalid(error.to_string())
}

fn read(parameters: HashMap<String, InferParameter>) -> Parameters {
    let value = |parameter: InferParameter| match parameter.parameter_choice {
        Some(ParameterChoice::BoolParam(value)) => Parameter::Bool(value),
        Some(ParameterChoice::Int64Param(value)) => {
            u64::try_from(value).map_or(Parameter::Signed(value), Parameter::Unsigned)
        }
        Some(ParameterChoice::Uint64Param(value)) => Parameter::Unsigned(value),
        Some(ParameterChoice::DoubleParam(value)) => Parameter::Float(value),
        Some(ParameterChoice::StringParam(value)) => Parameter::Text(value),
        None => Parameter::Other,
    };
    parameters.into_iter().map(|(key, parameter)| (key, value(parameter))).collect()
}

/// Typed contents as raw ones. Those of other types than the tensor's are refused: they would be
/// forgotten otherwise.
fn typed(name: &str, datatype: DataType, contents: InferTensorContents) -> Result<Bytes, Refusal> {
    let InferTensorContents {
        bool_contents,
        int_contents,
        int64_contents,
        uint_contents,
        uint64_contents,
        fp32_contents,
        fp64_contents,
        bytes_contents,
    } = contents;
    let (wanted, lengths) = (
        match datatype {
            DataType::Bool => 0,
            DataType::Int8 | DataType::Int16 | DataType::Int32 => 1,
            DataType::Int64 => 2,
            DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => 3,
            DataType::Uint64 => 4,
            DataType::Fp16 | DataType::Bf16 | DataType::Fp32 => 5,
            DataType::Fp64 => 6,
            DataType::Bytes => 7,
        },
        [
            bool_contents.len(),
            int_contents.len(),
            int64_contents.len(),
            uint_contents.len(),
            uint64_contents.len(),
            fp32_contents.len(),
            fp64_contents.len(),
            bytes_contents.len(),
        ],
    );
    if lengths.iter().enumerate().any(|(field, &length)| length > 0 && field != wanted) {
        return Err(Refusal::Invalid(format!(
            "the contents of input `{name}` are not in the field of {}",
            datatype.name()
        )));
    }
    let beyond = |value: &dyn std::fmt::Display| {
        Refusal::Invalid(format!("input `{name}` has {value}, which is no {}", datatype.name()))
    };
    macro_rules! narrow {
        ($values:expr, $kind:ty) => {{
            let mut raw = Vec::with_capacity($values.len() * size_of::<$kind>());
            for value in $values {
                let narrow = <$kind>::try_from(value).map_err(|_| beyond(&value))?;
                raw.extend(narrow.to_le_bytes());
            }
            raw.into()
        }};
    }
    macro_rules! as_is {
        ($values:expr) => {
            $values.into_iter().flat_map(|value| value.to_le_bytes()).collect()
        };
    }
    Ok(match datatype {
        DataType::Bool => bool_contents.into_iter().map(u8::from).collect(),
        DataType::Int8 => narrow!(int_contents, i8),
        DataType::Int16 => narrow!(int_contents, i16),
        DataType::Int32 => as_is!(int_contents),
        DataType::Int64 => as_is!(int64_contents),
        DataType::Uint8 => narrow!(uint_contents, u8),
        DataType::Uint16 => narrow!(uint_contents, u16),
        DataType::Uint32 => as_is!(uint_contents),
        DataType::Uint64 => as_is!(uint64_contents),
        DataType::Fp32 => as_is!(fp32_contents),
        DataType::Fp64 => as_is!(fp64_contents),
        DataType::Fp16 => {
            fp32_contents.into_iter().flat_map(|it| f16::from_f32(it).to_le_bytes()).collect()
        }
        DataType::Bf16 => {
            fp32_contents.into_iter().flat_map(|it| bf16::from_f32(it).to_le_bytes()).collect()
        }
        DataType::Bytes => {
            let mut raw = Vec::new();
            for string in bytes_contents {
                let length = u32::try_from(string.len()).map_err(|_| beyond(&"a long string"))?;
                raw.extend(length.to_le_bytes());
                raw.extend(string);
            }
            raw.into()
        }
    })
}

/// The answer to a request, in the form in which the request came.
pub fn answer(model: String, id: String, response: Response, raw: bool) -> ModelInferResponse {
    let mut raw_output_contents = Vec::new();
    let mut outputs = Vec::with_capacity(response.outputs.len());
    for tensor in response.outputs {
        let contents = (!raw).then(|| contents(&tensor));
        outputs.push(InferOutputTensor {
            name: tensor.name,
            datatype: tensor.datatype.name().into(),
            shape: tensor.shape.iter().map(|&n| i64::try_from(n).unwrap_or(i64::MAX)).collect(),
            parameters: HashMap::new(),
            contents,
        });
        if raw {
            raw_output_contents.push(tensor.data);
        }
    }
    ModelInferResponse {
        model_name: model,
        model_version: response.version,
        id,
        parameters: HashMap::new(),
        outputs,
        raw_output_contents,
    }
}

fn contents(tensor: &Tensor) -> InferTensorContents {
    let mut contents = InferTensorContents::default();
    let raw = &tensor.data[..];
    macro_rules! put {
        ($field:ident, $kind:ty) => {
            contents.$field =
                raw.as_chunks().0.iter().map(|it| <$kind>::from_le_bytes(*it).into()).collect()
        };
    }
    match tensor.datatype {
        DataType::Bool => contents.bool_contents = raw.iter().map(|byte| *byte != 0).collect(),
        DataType::Int8 => put!(int_contents, i8),
        DataType::Int16 => put!(int_contents, i16),
        DataType::Int32 => put!(int_contents, i32),
        DataType::Int64 => put!(int64_contents, i64),
        DataType::Uint8 => put!(uint_contents, u8),
        DataType::Uint16 => put!(uint_contents, u16),
        DataType::Uint32 => put!(uint_contents, u32),
        DataType::Uint64 => put!(uint64_contents, u64),
        DataType::Fp16 => put!(fp32_contents, f16),
        DataType::Bf16 => put!(fp32_contents, bf16),
        DataType::Fp32 => put!(fp32_contents, f32),
        DataType::Fp64 => put!(fp64_contents, f64),
        DataType::Bytes => contents.bytes_contents = tensor.strings().map(<[u8]>::to_vec).collect(),
    }
    contents
}
