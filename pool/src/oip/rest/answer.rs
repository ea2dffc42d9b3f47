//! Answers over REST: JSON, and behind it the raw contents of those outputs that the client wants
//! so. Raw contents are handed to the connection as they are.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Json;
use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use downbeat_link::Tensor;
use hyper::body::{Frame, SizeHint};
use serde::{Serialize, Serializer};
use serde_json::json;

use super::request::Form;
use super::{HEADER_LENGTH, elements};
use crate::inference::{self, Refusal};
use crate::oip::told;

#[derive(Serialize)]
struct Answer<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    outputs: Vec<Output<'a>>,
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [u64],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Parameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Written<'a>>,
}

#[derive(Serialize)]
struct Parameters {
    binary_data_size: usize,
}

struct Written<'a>(&'a Tensor);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        elements::write(self.0, serializer)
    }
}

/// The answer to an inference, and how much of it is JSON where raw contents follow.
///
/// # Errors
/// [`Refusal::Failed`] for an output that JSON cannot carry.
pub fn write(
    model: &str,
    id: &str,
    answer: inference::Response,
    form: &Form,
) -> Result<(Option<usize>, VecDeque<Bytes>), Refusal> {
    let mut outputs = Vec::with_capacity(answer.outputs.len());
    for tensor in &answer.outputs {
        let binary = form.is_binary(&tensor.name);
        if !binary && let Some(reason) = elements::unwritable(tensor) {
            return Err(Refusal::Failed(reason));
        }
        outputs.push(Output {
            name: &tensor.name,
            datatype: tensor.datatype.name(),
            shape: &tensor.shape,
            parameters: binary.then_some(Parameters { binary_data_size: tensor.data.len() }),
            data: (!binary).then_some(Written(tensor)),
        });
    }
    let json = Answer { model_name: model, model_version: &answer.version, id, outputs };
    let json = serde_json::to_vec(&json).map_err(|error| Refusal::Failed(error.to_string()))?;
    let length = json.len();
    let mut segments = VecDeque::from([Bytes::from(json)]);
    let raw = answer.outputs.into_iter().filter(|tensor| form.is_binary(&tensor.name));
    segments.extend(raw.map(|tensor| tensor.data));
    let header = (segments.len() > 1).then_some(length);
    segments.retain(|segment| !segment.is_empty());
    Ok((header, segments))
}

/// The HTTP answer made of these.
pub fn response(header: Option<usize>, segments: VecDeque<Bytes>) -> Response {
    let total: usize = segments.iter().map(Bytes::len).sum();
    let mut response = Response::new(Body::new(Segments(segments)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, total.into());
    let kind = match header {
        None => HeaderValue::from_static("application/json"),
        Some(length) => {
            headers.insert(HEADER_LENGTH, length.into());
            HeaderValue::from_static("application/octet-stream")
        }
    };
    headers.insert(CONTENT_TYPE, kind);
    response
}

/// A body that is given piece by piece.
struct Segments(VecDeque<Bytes>);

impl hyper::body::Body for Segments {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|segment| Ok(Frame::data(segment))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|segment| segment.len() as u64).sum())
    }
}

/// Triton's status for each refusal: what may work later is 503, an expired request included.
pub fn status(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::NotFound(_) => StatusCode::NOT_FOUND,
        Refusal::Invalid(_) | Refusal::Cancelled => StatusCode::BAD_REQUEST,
        Refusal::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::Full { .. } | Refusal::Unavailable(_) | Refusal::Expired(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Refusal::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = error(status(&self), &self.to_string());
        if let Self::Full { retry_after, .. } = self {
            // The header counts whole seconds; 0 would mean at once.
            let seconds = retry_after.as_millis().div_ceil(1000).clamp(1, 3600) as u64;
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// An error as clients of the protocol expect it.
pub fn error(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": told(message) }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use downbeat_link::DataType;
    use std::time::Duration;

    fn tensor(name: &str, data: &'static [u8]) -> Tensor {
        let shape = vec![data.len() as u64];
        Tensor { name: name.into(), datatype: DataType::Uint8, shape, data: data.into() }
    }

    #[test]
    fn raw_contents_follow_the_json_in_the_order_of_the_outputs() {
        let answer = inference::Response {
            version: "3".into(),
            outputs: vec![tensor("x", b"\x05"), tensor("y", b"ab"), tensor("z", b"cde")],
            spent: inference::Spent::default(),
        };
        let form = Form { binary: true, named: vec![("x".into(), false)] };
        let (header, segments) = write("m", "", answer.clone(), &form).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&segments[0]).unwrap();
        assert_eq!(header, Some(segments[0].len()));
        assert_eq!(json["outputs"][0]["data"], json!([5]));
        assert_eq!(json["outputs"][1]["parameters"]["binary_data_size"], 2);
        assert!(json.get("id").is_none());
        assert_eq!([&segments[1][..], &segments[2]], [b"ab".as_slice(), b"cde"]);
        let (header, segments) = write("m", "7", answer, &Form::default()).unwrap();
        assert_eq!((header, segments.len()), (None, 1));
    }

    #[test]
    fn a_full_queue_says_when_to_come_again() {
        let full = |ms| Refusal::Full {
            cause: downbeat_queue::Cause::Full,
            reason: "full".into(),
            retry_after: Duration::from_millis(ms),
        };
        for (ms, seconds) in [(0, "1"), (1, "1"), (1001, "2"), (u64::MAX, "3600")] {
            let response = full(ms).into_response();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()[RETRY_AFTER], seconds);
        }
    }
}
