//! An inference request over REST: JSON, and behind it, where the client says so, the raw contents
//! of tensors (the binary tensor extension). Raw contents are slices of the body, never copies.

use bytes::Bytes;
use downbeat_link::{Tensor, checked_shape};

use super::json::{self, Data};
use crate::inference::{Refusal, Request, Terms};
use crate::oip::parameters;
use crate::oip::shared::{Place, Placed};

/// The most JSON of one request, without the raw contents behind it. The elements that are read
/// from it take up to four times as much.
pub const MAX_JSON: usize = 16 << 20;

/// A request and how its answer is to be written.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// Without what is in shared memory.
    pub request: Request,
    pub placed: Vec<Placed>,
    pub form: Form,
}

/// Which outputs travel as raw contents behind the JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// Those that are not named.
    pub binary: bool,
    /// Those that are.
    pub named: Vec<(String, bool)>,
}

impl Form {
    /// Whether an output travels as raw contents.
    pub fn is_binary(&self, output: &str) -> bool {
        let named = self.named.iter().find(|(name, _)| name == output);
        named.map_or(self.binary, |(_, binary)| *binary)
    }
}

/// Reads the body of a request to a model.
///
/// `json` is how many bytes of it are JSON, where the client says so; `terms` is what its head and
/// connection say.
///
/// # Errors
/// [`Refusal::Invalid`], [`Refusal::TooLarge`].
pub fn parse(
    model: String,
    version: Option<String>,
    json: Option<usize>,
    body: &Bytes,
    mut terms: Terms,
) -> Result<Parsed, Refusal> {
    let length = json.unwrap_or(body.len());
    if length > body.len() {
        return Err(Refusal::Invalid(format!(
            "Inference-Header-Content-Length is {length}, and the body has {} bytes",
            body.len()
        )));
    }
    if length > MAX_JSON {
        return Err(Refusal::TooLarge(format!(
            "{length} bytes of JSON; at most {MAX_JSON} are taken: send the tensors as binary data \
             (tritonclient: set_data_from_numpy(…, binary_data=True))"
        )));
    }
    let read = json::read(&body[..length])
        .map_err(|error| Refusal::Invalid(format!("not an inference request: {error}")))?;
    parameters::terms(&read.parameters, &mut terms)?;
    let mut rest = body.slice(length..);
    let mut placed = Vec::new();
    let mut inputs = Vec::with_capacity(read.inputs.len());
    for input in read.inputs {
        let (name, datatype) = (input.name, input.datatype);
        parameters::offered(&name, &input.parameters)?;
        let shape = checked_shape(&name, &input.shape).map_err(invalid)?;
        let size = parameters::whole(&input.parameters, "binary_data_size")?;
        let place = Place::of(&name, &input.parameters)?;
        let data = match (input.data, size, place) {
            (Data::Absent, None, Some(place)) => {
                placed.push(Placed { name, datatype, shape, place });
                continue;
            }
            (Data::Raw(data), None, None) => data,
            (Data::Absent, Some(size), None) => take(&mut rest, size).ok_or_else(|| {
                Refusal::Invalid(format!(
                    "input `{name}` has a `binary_data_size` of {size}, and {} bytes of the body \
                     are left for it",
                    rest.len()
                ))
            })?,
            (Data::Absent, None, None) => {
                return Err(Refusal::Invalid(format!(
                    "input `{name}` has no `data` and no `binary_data_size`; give one of them"
                )));
            }
            _ => {
                return Err(Refusal::Invalid(format!(
                    "input `{name}` has more than one of `data`, `binary_data_size` and \
                     `shared_memory_region`; give one of them"
                )));
            }
        };
        let tensor = Tensor { name, datatype, shape, data };
        tensor.check().map_err(invalid)?;
        inputs.push(tensor);
    }
    if !rest.is_empty() {
        return Err(Refusal::Invalid(format!(
            "{} bytes of the body belong to no input; the `binary_data_size` of all inputs and \
             Inference-Header-Content-Length add up to the body",
            rest.len()
        )));
    }
    let mut form = Form {
        binary: parameters::flag(&read.parameters, "binary_data_output")?,
        named: Vec::with_capacity(read.outputs.len()),
    };
    let mut outputs = Vec::with_capacity(read.outputs.len());
    for output in read.outputs {
        parameters::offered_output(&output.name, &output.parameters)?;
        let binary = match output.parameters.get("binary_data") {
            None => form.binary,
            Some(_) => parameters::flag(&output.parameters, "binary_data")?,
        };
        form.named.push((output.name.clone(), binary));
        outputs.push(output.name);
    }
    let shared = Vec::new();
    let request = Request { model, version, id: read.id, inputs, shared, outputs, terms };
    Ok(Parsed { request, placed, form })
}

fn take(rest: &mut Bytes, size: u64) -> Option<Bytes> {
    let size = usize::try_from(size).ok().filter(|&size| size <= rest.len())?;
    Some(rest.split_to(size))
}

fn invalid(error: impl std::fmt::Display) -> Refusal {
    Refusal::Invalid(error.to_string())
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
