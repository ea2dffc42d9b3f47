//! The REST server. Tensors travel as JSON; the binary extension is not spoken, and a request in
//! it is told so.

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    DataType, INPUT, MAX_BODY, OUTPUT, PLATFORM, Refusal, SERVER_NAME, Service, Shape, Sound,
    check_outputs, only_input,
};

/// Announces raw bytes after the JSON, in the binary extension.
const BINARY_HEADER: &str = "inference-header-content-length";

/// All routes.
pub fn router(service: Service) -> Router {
    Router::new()
        .route("/v2", get(server))
        .route("/v2/", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{name}", get(model))
        .route("/v2/models/{name}/ready", get(model_ready))
        .route("/v2/models/{name}/infer", post(infer))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(service)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        error(status, &self.to_string())
    }
}

fn error(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": message }))).into_response()
}

async fn server() -> Response {
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({ "name": SERVER_NAME, "version": version, "extensions": [] })).into_response()
}

async fn live() -> Response {
    Json(json!({ "live": true })).into_response()
}

async fn ready(State(service): State<Service>) -> Response {
    let ready = service.ready();
    (readiness(ready), Json(json!({ "ready": ready }))).into_response()
}

/// Clients read readiness from the status alone.
fn readiness(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn model(
    State(service): State<Service>,
    Path(name): Path<String>,
) -> Result<Response, Refusal> {
    service.model(&name, "")?;
    let tensor = |name| json!({ "name": name, "datatype": "FP32", "shape": [-1, -1] });
    Ok(Json(json!({
        "name": name,
        "platform": PLATFORM,
        "inputs": [tensor(INPUT)],
        "outputs": [tensor(OUTPUT)],
    }))
    .into_response())
}

async fn model_ready(
    State(service): State<Service>,
    Path(name): Path<String>,
) -> Result<Response, Refusal> {
    let ready = service.model(&name, "")?.ready;
    Ok((readiness(ready), Json(json!({ "name": name, "ready": ready }))).into_response())
}

#[derive(Debug, Deserialize)]
struct Request {
    id: Option<String>,
    inputs: Vec<Input>,
    #[serde(default)]
    outputs: Vec<RequestedOutput>,
}

#[derive(Debug, Deserialize)]
struct Input {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    data: Data,
}

#[derive(Debug, Deserialize)]
struct RequestedOutput {
    name: String,
}

/// Flat, or a row for each sample.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "`data` wants numbers: flat, or a list for each sample")]
enum Data {
    Flat(Vec<f64>),
    Rows(Vec<Vec<f64>>),
}

#[derive(Debug, Serialize)]
struct Answer<'a> {
    model_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: [Output; 1],
}

#[derive(Debug, Serialize)]
struct Output {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<i64>,
    data: Elements,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Elements {
    Fp32(Vec<f32>),
    Int16(Vec<i16>),
}

async fn infer(
    State(service): State<Service>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Response> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => error(
            StatusCode::PAYLOAD_TOO_LARGE,
            &format!("a request may have {MAX_BODY} bytes; send shorter pieces"),
        ),
        status => error(status, &rejection.body_text()),
    })?;
    // A missing model is told before the body is looked at.
    service.model(&name, "").map_err(IntoResponse::into_response)?;
    let (id, sound) = parse(&headers, &body).map_err(IntoResponse::into_response)?;
    let sound = service.infer(&name, "", sound).await.map_err(IntoResponse::into_response)?;
    let data = match sound.datatype {
        DataType::Fp32 => Elements::Fp32(sound.floats().collect()),
        DataType::Int16 => Elements::Int16(sound.samples),
    };
    let output = Output {
        name: OUTPUT,
        datatype: sound.datatype.name(),
        shape: sound.shape.dimensions,
        data,
    };
    Ok(Json(Answer { model_name: &name, id, outputs: [output] }).into_response())
}

pub(super) fn parse(headers: &HeaderMap, body: &[u8]) -> Result<(Option<String>, Sound), Refusal> {
    if headers.contains_key(BINARY_HEADER) {
        return Err(Refusal::Invalid(
            "the binary tensor extension is not spoken here; send the data as JSON \
             (tritonclient: set_data_from_numpy(…, binary_data=False)), or use gRPC"
                .into(),
        ));
    }
    let request: Request = serde_json::from_slice(body)
        .map_err(|error| Refusal::Invalid(format!("not an inference request: {error}")))?;
    check_outputs(request.outputs.iter().map(|output| output.name.as_str()))?;
    let input = only_input(request.inputs, |input| &input.name)?;
    let (datatype, shape) = (DataType::parse(&input.datatype)?, Shape::parse(&input.shape)?);
    let elements = match input.data {
        Data::Flat(elements) => elements,
        Data::Rows(rows) => {
            let width = shape.channels;
            if let Some(row) = rows.iter().find(|row| row.len() != width) {
                return Err(Refusal::Invalid(format!(
                    "a row of `{INPUT}` has {} elements and the shape asks for {width}",
                    row.len()
                )));
            }
            rows.concat()
        }
    };
    Ok((request.id, Sound::new(datatype, shape, &elements)?))
}

async fn nothing_here(uri: Uri) -> Response {
    error(
        StatusCode::NOT_FOUND,
        &format!("nothing at {}; this is the Open Inference Protocol: start at /v2", uri.path()),
    )
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    error(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("{} does not take {method}; infer takes POST, everything else GET", uri.path()),
    )
}
