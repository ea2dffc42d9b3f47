//! The memory that a client shares: what it registered, and for how long.

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::body::Body as _;
use serde::Deserialize;

use super::super::shared::{self, Shown};
use super::answer::error;
use super::body::{self, Patience};
use super::{Peer, Service};
use crate::inference::Refusal;

/// Bytes of what registers a region.
const MAX_REGISTRATION: u64 = 4 << 10;

/// Below `/v2/systemsharedmemory`.
pub fn routes() -> Router<Service> {
    Router::new()
        .route("/status", get(status_of_all))
        .route("/unregister", post(unregister_all))
        .route("/region/{name}/status", get(status))
        .route("/region/{name}/register", post(register))
        .route("/region/{name}/unregister", post(unregister))
}

fn shown(service: &Service, peer: &Peer, name: Option<&str>) -> Result<Json<Vec<Shown>>, Refusal> {
    let user = shared::user(Some(peer))?;
    service.models.backend().regions.shown(user, name).map(Json)
}

async fn status_of_all(
    State(service): State<Service>,
    Extension(peer): Extension<Peer>,
) -> Result<Json<Vec<Shown>>, Refusal> {
    shown(&service, &peer, None)
}

async fn status(
    State(service): State<Service>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
) -> Result<Json<Vec<Shown>>, Refusal> {
    shown(&service, &peer, Some(&name))
}

async fn register(
    State(service): State<Service>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
    body: Body,
) -> Result<(), Response> {
    #[derive(Deserialize)]
    struct Asked {
        key: String,
        #[serde(default)]
        offset: u64,
        byte_size: u64,
    }
    let user = shared::user(Some(&peer)).map_err(IntoResponse::into_response)?;
    if body.size_hint().exact().is_none_or(|bytes| bytes > MAX_REGISTRATION) {
        let message = format!("a registration has a Content-Length of {MAX_REGISTRATION} at most");
        return Err(error(StatusCode::PAYLOAD_TOO_LARGE, &message));
    }
    let whole = body::take(body, &service.budget, Patience::default())
        .await
        .map_err(|(status, message)| error(status, &message))?;
    let Asked { key, offset, byte_size } =
        serde_json::from_slice(&whole.bytes).map_err(|reason| {
            let message =
                format!("send {{\"key\":\"/NAME\",\"offset\":0,\"byte_size\":BYTES}}: {reason}");
            error(StatusCode::BAD_REQUEST, &message)
        })?;
    let shown = Shown { name, key, offset, byte_size };
    let registered = service.models.backend().regions.register(user, shown);
    registered.map_err(IntoResponse::into_response)
}

async fn unregister_all(
    State(service): State<Service>,
    Extension(peer): Extension<Peer>,
) -> Result<(), Refusal> {
    forget(&service, &peer, None)
}

async fn unregister(
    State(service): State<Service>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
) -> Result<(), Refusal> {
    forget(&service, &peer, Some(&name))
}

fn forget(service: &Service, peer: &Peer, name: Option<&str>) -> Result<(), Refusal> {
    let user = shared::user(Some(peer))?;
    service.models.backend().regions.unregister(user, name);
    Ok(())
}
