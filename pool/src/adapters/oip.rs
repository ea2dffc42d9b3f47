//! Another server of the Open Inference Protocol, over REST with the binary tensor extension.

use std::time::Instant;

use bytes::Bytes;
use downbeat_link::{DataType, Tensor, checked_shape};
use serde::Deserialize;
use serde_json::{Value, json};

use super::AdapterError;
use super::http::{Server, excerpt};
use crate::config::{Oip, WorkerConfig};
use crate::inference::{Refusal, Request};

/// Length of the JSON before the tensors' bytes.
const HEADER_LENGTH: &str = "inference-header-content-length";

/// See the module.
#[derive(Debug)]
pub struct OipWorker {
    server: Server,
    model: String,
}

#[derive(Deserialize)]
struct Answer {
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Default, Deserialize)]
struct Parameters {
    binary_data_size: Option<usize>,
}

impl OipWorker {
    pub(super) fn new(config: &WorkerConfig, oip: &Oip, base: String) -> Self {
        let model = oip.model.clone().unwrap_or_else(|| config.name.clone());
        Self { server: Server::new(config, oip.url.is_none(), base), model }
    }

    pub(super) async fn infer(&self, request: &Request) -> Result<Vec<Tensor>, AdapterError> {
        let head = head(request).to_string();
        let length = head.len().to_string();
        let mut body = Vec::from(head);
        for tensor in &request.inputs {
            body.extend_from_slice(&tensor.data);
        }
        let path = format!("/v2/models/{}/infer", self.model);
        let mut headers =
            vec![("content-type", "application/octet-stream"), (HEADER_LENGTH, length.as_str())];
        if let Some(trace) = &request.terms.traceparent {
            headers.push(("traceparent", trace));
        }
        let (status, headers, answer) = self.server.post(&path, &headers, body.into()).await?;
        let name = &self.server.name;
        let said = || format!("`{name}`: {path} answers {status}{}", excerpt(&answer));
        match status.as_u16() {
            200 => {}
            400 => return Err(Refusal::Invalid(said()).into()),
            404 => return Err(Refusal::NotFound(said()).into()),
            503 => return Err(Refusal::Unavailable(said()).into()),
            _ => return Err(Refusal::Failed(said()).into()),
        }
        let length = headers.get(HEADER_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        tensors(&answer, length).map_err(|reason| {
            Refusal::Failed(format!("`{name}`: its answer is none: {reason}")).into()
        })
    }
}

fn head(request: &Request) -> Value {
    let inputs: Vec<_> = request
        .inputs
        .iter()
        .map(|tensor| {
            json!({
                "name": tensor.name,
                "datatype": tensor.datatype.name(),
                "shape": tensor.shape,
                "parameters": { "binary_data_size": tensor.data.len() },
            })
        })
        .collect();
    let mut parameters = json!({ "binary_data_output": true });
    let terms = &request.terms;
    if let Some(deadline) = terms.deadline {
        // What is left of it, so that the other pool has the same deadline.
        let left = deadline.saturating_duration_since(Instant::now()).as_micros();
        parameters["timeout"] = json!(u64::try_from(left).unwrap_or(u64::MAX).max(1));
    }
    if terms.priority > 0 {
        parameters["priority"] = json!(terms.priority);
    }
    if let Some(sequence) = &terms.sequence {
        parameters["sequence_id"] = json!(sequence.id);
        parameters["sequence_start"] = json!(sequence.start);
        parameters["sequence_end"] = json!(sequence.end);
    }
    let mut head = json!({ "id": request.id, "inputs": inputs, "parameters": parameters });
    if !request.outputs.is_empty() {
        let wanted = |name| json!({ "name": name, "parameters": { "binary_data": true } });
        head["outputs"] = request.outputs.iter().map(wanted).collect();
    }
    head
}

fn tensors(answer: &Bytes, head: Option<usize>) -> Result<Vec<Tensor>, String> {
    let Some(head) = head else {
        return Err("it has no binary tensors; the server lacks the binary extension".into());
    };
    if head > answer.len() {
        return Err(format!("its head has {head} bytes of {}", answer.len()));
    }
    let parsed: Answer =
        serde_json::from_slice(&answer[..head]).map_err(|error| error.to_string())?;
    let mut at = head;
    let mut tensors = Vec::with_capacity(parsed.outputs.len());
    for output in parsed.outputs {
        let Output { name, datatype, shape, parameters } = output;
        let size = parameters
            .binary_data_size
            .ok_or_else(|| format!("`{name}` is not binary, though that was asked for"))?;
        let end = at.checked_add(size).filter(|end| *end <= answer.len());
        let end = end.ok_or_else(|| format!("`{name}` ends behind the answer's end"))?;
        let datatype = DataType::parse(&datatype)
            .ok_or_else(|| format!("`{name}` has the unknown datatype {datatype}"))?;
        let shape = checked_shape(&name, &shape).map_err(|error| error.to_string())?;
        let tensor = Tensor { name, datatype, shape, data: answer.slice(at..end) };
        tensor.check().map_err(|error| error.to_string())?;
        tensors.push(tensor);
        at = end;
    }
    Ok(tensors)
}
