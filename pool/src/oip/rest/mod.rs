//! The REST server: HTTP/1.1, JSON, and the binary tensor extension.
//!
//! A connection that its client ends takes the request on it along, at either end of it: whoever
//! closes only their sending side is taken to have left.

mod answer;
mod body;
mod json;
mod openai;
mod request;
mod shared;

use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::debug;

use super::listen::{Accept, Connection, Listener, Peer};
use super::models::{Entry, Models};
use super::statistics::{Counts, Total};
use super::{EXTENSIONS, SERVER_NAME, elements, since_epoch_ms};
use crate::apart::apart;
use crate::inference::{Metadata, Refusal, Terms};
use crate::metrics;
use answer::error;
pub use body::MAX_BODY;
use body::{Budget, Patience, Refused};
use request::Parsed;
pub use request::parse;

/// How much of a body is JSON, where raw contents follow; in requests and in answers.
const HEADER_LENGTH: &str = "inference-header-content-length";

/// A name that a client gives itself, for limits.
const CLIENT: &str = "x-downbeat-client";

/// The id of the request on whose behalf this one is made; external workers get it with each.
const PARENT: &str = "x-downbeat-parent";

/// A connection whose next request is not there within this is closed: idle ones, and those that
/// send their head byte by byte.
const HEAD_LIMIT: Duration = Duration::from_secs(60);

/// Head of one request, and what is read of a body at a time.
const BUFFER: usize = 256 << 10;

/// What the handlers share.
#[derive(Clone, Debug)]
struct Service {
    models: Models,
    budget: Budget,
}

/// Serves until the task is dropped.
pub async fn serve(listener: Listener, models: Models) {
    let accept = Accept::new(listener);
    let service = Service { models, budget: Budget::default() };
    let router = TowerToHyperService::new(router(service.clone()));
    loop {
        let connection = accept.next().await;
        tokio::spawn(converse(connection, service.clone(), router.clone()));
    }
}

async fn converse(connection: Connection, service: Service, router: TowerToHyperService<Router>) {
    let peer = connection.peer().clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let (peer, service, router) = (peer.clone(), service.clone(), router.clone());
        async move {
            // What is asked most finds its way without the router: its ten layers cost as much as
            // reading the request.
            if let Some(of) = Of::inferred(request.method(), request.uri().path()) {
                let (parts, body) = request.into_parts();
                let answer = infer(&service, of, &peer, &parts.headers, body).await;
                return answer.or_else(Ok);
            }
            request.extensions_mut().insert(peer);
            router.call(request).await
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(connection), service);
    if let Err(error) = served.await {
        debug!("REST connection: {error}");
    }
}

/// All routes.
fn router(service: Service) -> Router {
    let model = Router::new()
        .route("/", get(metadata))
        .route("/ready", get(model_ready))
        .route("/stats", get(statistics))
        .route("/infer", post(routed_infer));
    Router::new()
        .route("/v2", get(server))
        .route("/v2/", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/stats", get(all_statistics))
        .nest("/v2/models/{name}", model.clone())
        .nest("/v2/models/{name}/versions/{version}", model)
        .route("/v2/repository/index", post(index))
        .route("/v2/repository/models/{name}/load", post(load))
        .route("/v2/repository/models/{name}/unload", post(unload))
        .nest("/v2/systemsharedmemory", shared::routes())
        .route("/v1/{*path}", any(openai::pass))
        .route("/metrics", get(metrics))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .with_state(service)
}

/// The model and version of a path.
#[derive(Deserialize)]
struct Of {
    name: String,
    version: Option<String>,
}

impl Of {
    /// The model that a request asks, where its path can be read as it is.
    fn inferred(method: &Method, path: &str) -> Option<Self> {
        let path = path.strip_prefix("/v2/models/")?.strip_suffix("/infer")?;
        if *method != Method::POST || path.contains('%') {
            return None;
        }
        let (name, version) = match path.split_once("/versions/") {
            Some((name, version)) => (name, Some(version)),
            None => (path, None),
        };
        let plain = |part: &str| !part.is_empty() && !part.contains('/');
        let known = plain(name) && version.is_none_or(plain);
        known.then(|| Self { name: name.to_owned(), version: version.map(str::to_owned) })
    }
}

async fn server() -> Response {
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({ "name": SERVER_NAME, "version": version, "extensions": EXTENSIONS }))
        .into_response()
}

async fn live() -> Response {
    Json(json!({ "live": true })).into_response()
}

async fn ready(State(service): State<Service>) -> Response {
    let ready = service.models.ready();
    (readiness(ready), Json(json!({ "ready": ready }))).into_response()
}

/// Clients read readiness from the status alone.
fn readiness(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn metadata(
    State(service): State<Service>,
    Path(of): Path<Of>,
) -> Result<Json<Value>, Refusal> {
    let Metadata { name, versions, platform, inputs, outputs, .. } =
        service.models.metadata(&of.name, of.version.as_deref())?;
    Ok(Json(json!({
        "name": name,
        "versions": versions,
        "platform": platform,
        "inputs": inputs,
        "outputs": outputs,
    })))
}

async fn model_ready(
    State(service): State<Service>,
    Path(of): Path<Of>,
) -> Result<Response, Refusal> {
    let ready = service.models.model_ready(&of.name, of.version.as_deref())?;
    Ok((readiness(ready), Json(json!({ "name": of.name, "ready": ready }))).into_response())
}

async fn all_statistics(State(service): State<Service>) -> Result<Json<Value>, Refusal> {
    Ok(Json(shown(service.models.statistics(None, None)?)))
}

async fn statistics(
    State(service): State<Service>,
    Path(of): Path<Of>,
) -> Result<Json<Value>, Refusal> {
    Ok(Json(shown(service.models.statistics(Some(&of.name), of.version.as_deref())?)))
}

fn shown(models: Vec<(Entry, Counts)>) -> Value {
    let total = |total: Total| json!({ "count": total.count, "ns": total.ns() });
    let model = |(entry, counts): (Entry, Counts)| {
        let batches: Vec<_> = counts
            .batches
            .iter()
            .map(|(size, batches)| {
                let compute = Total { count: batches.requests, time: batches.time };
                json!({ "batch_size": size, "compute_infer": total(compute) })
            })
            .collect();
        json!({
            "name": entry.name,
            "version": entry.version,
            "last_inference": since_epoch_ms(counts.last),
            "inference_count": counts.success.total.count,
            "execution_count": counts.executions(),
            "inference_stats": {
                "success": total(counts.success.total),
                "fail": total(counts.fail),
                "cancel": total(counts.cancelled),
                "queue": total(counts.queue.total),
                "compute_infer": total(counts.compute.total),
            },
            "batch_stats": batches,
        })
    };
    json!({ "model_stats": models.into_iter().map(model).collect::<Vec<_>>() })
}

async fn metrics(State(service): State<Service>) -> Response {
    // Thousands of lines are no work for the thread that requests come by.
    let encoded = tokio::task::spawn_blocking(move || metrics::encode(&service.models)).await;
    let failed = |reason: String| error(StatusCode::INTERNAL_SERVER_ERROR, &reason);
    match encoded {
        Ok(Ok(text)) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Ok(Err(reason)) => failed(reason.to_string()),
        Err(reason) => failed(reason.to_string()),
    }
}

async fn index(State(service): State<Service>, body: Body) -> Result<Json<Value>, Response> {
    #[derive(Default, Deserialize)]
    struct Asked {
        #[serde(default)]
        ready: bool,
    }
    let whole = body::take(body, &service.budget, Patience::default())
        .await
        .map_err(|(status, message)| error(status, &message))?;
    // Triton's clients may send no body at all.
    let asked = if whole.bytes.is_empty() {
        Asked::default()
    } else {
        serde_json::from_slice(&whole.bytes).map_err(|reason| {
            let message = format!("send {{}} or {{\"ready\":true}}: {reason}");
            error(StatusCode::BAD_REQUEST, &message)
        })?
    };
    let wanted = |entry: &Entry| entry.ready() || !asked.ready;
    let shown = |entry: Entry| {
        let (state, reason) = (entry.state(), entry.reason);
        json!({ "name": entry.name, "version": entry.version, "state": state, "reason": reason })
    };
    let entries = service.models.index().into_iter();
    Ok(Json(entries.filter(wanted).map(shown).collect()))
}

async fn load(State(service): State<Service>, Path(of): Path<Of>) -> Result<(), Refusal> {
    service.models.load(&of.name).await
}

async fn unload(State(service): State<Service>, Path(of): Path<Of>) -> Result<(), Refusal> {
    service.models.unload(&of.name)
}

async fn routed_infer(
    State(service): State<Service>,
    Path(of): Path<Of>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Response> {
    infer(&service, of, &peer, &headers, body).await
}

async fn infer<B>(
    service: &Service,
    Of { name, version }: Of,
    peer: &Peer,
    headers: &HeaderMap,
    body: B,
) -> Result<Response, Response>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let terms = terms(headers, peer);
    let arrival = terms.arrival;
    // A missing model is told before the body is looked at.
    let refused = |refusal: Refusal| refusal.into_response();
    service.models.model_ready(&name, version.as_deref()).map_err(refused)?;
    let not_taken = |(status, message): Refused| error(status, &message);
    let json = lengths(headers).map_err(not_taken)?;
    let whole = body::take(body, &service.budget, Patience::default()).await.map_err(not_taken)?;
    let bytes = whole.bytes.clone();
    let length = json.unwrap_or(bytes.len());
    let model = name.clone();
    let read = move || parse(model, version, json, &bytes, terms);
    let parsed = apart(length, read)
        .await
        .and_then(|parsed| parsed)
        .map_err(|refusal| refused(service.models.unreadable(&name, arrival, refusal)))?;
    let Parsed { mut request, placed, form } = parsed;
    let id = request.id.clone();
    request.shared = super::shared::open(placed, &service.models.backend().regions, Some(peer))
        .map_err(|refusal| refused(service.models.unreadable(&name, arrival, refusal)))?;
    let answered = service.models.infer(request).await.map_err(refused)?;
    drop(whole);
    let outputs = answered.outputs.iter().filter(|tensor| !form.is_binary(&tensor.name));
    let size = outputs.map(|tensor| tensor.data.len()).sum();
    let write = move || answer::write(&name, &id, answered, &form);
    let (header, segments) =
        apart(size, write).await.and_then(|written| written).map_err(refused)?;
    Ok(answer::response(header, segments))
}

/// What the head of a request says.
fn terms(headers: &HeaderMap, peer: &Peer) -> Terms {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let mut terms = Terms::of(peer.client(text(CLIENT)));
    terms.traceparent = text("traceparent").map(str::to_owned);
    terms.parent = text(PARENT).map(str::to_owned);
    terms
}

/// How much of the body is JSON, where raw contents follow.
fn lengths(headers: &HeaderMap) -> Result<Option<usize>, Refused> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|it| *it != "identity") {
        let message = format!(
            "Content-Encoding is {encoding:?}; send the body as it is, tensors hardly shrink"
        );
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let Some(length) = headers.get(HEADER_LENGTH) else {
        return Ok(None);
    };
    let number = length.to_str().ok().and_then(|text| text.parse().ok());
    let message = || {
        format!("Inference-Header-Content-Length is {length:?}; write the bytes of the JSON alone")
    };
    number.map(Some).ok_or_else(|| (StatusCode::BAD_REQUEST, message()))
}

async fn nothing_here(uri: Uri) -> Response {
    error(
        StatusCode::NOT_FOUND,
        &format!(
            "nothing at {}; this is the Open Inference Protocol: start at /v2, or look at /metrics",
            uri.path()
        ),
    )
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    error(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!(
            "{} does not take {method}; infer and repository take POST, everything else GET",
            uri.path()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_router_is_what_the_router_finds_too() {
        let of = |path: &str| Of::inferred(&Method::POST, path).map(|of| (of.name, of.version));
        let found =
            |name: &str, version: Option<&str>| Some((name.to_owned(), version.map(str::to_owned)));
        assert_eq!(of("/v2/models/m/infer"), found("m", None));
        assert_eq!(of("/v2/models/m/versions/3/infer"), found("m", Some("3")));
        assert_eq!(
            of("/v2/models/versions/versions/infer/infer"),
            found("versions", Some("infer"))
        );
        for path in [
            "/v2/models/m/infer/",
            "/v2/models//infer",
            "/v2/models/m/versions//infer",
            "/v2/models/m/versions/3/4/infer",
            "/v2/models/a/b/infer",
            "/v2/models/infer",
            "/v2/models/m%6f/infer",
            "/v2/models/m/ready",
            "/v1/models/m/infer",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
        assert!(Of::inferred(&Method::GET, "/v2/models/m/infer").is_none());
    }
}
