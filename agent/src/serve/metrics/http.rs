//! The HTTP side: a page, the metrics and a health check.

use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use downbeat_api::Snapshot;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{CONTENT_TYPE, encode};

/// A tick older than this means that the agent hangs; ticks come several times a second.
const HUNG_AFTER_SECONDS: f64 = 10.0;

const PAGE: &str = "<!doctype html><html lang=\"en\"><title>downbeat</title>\
    <h1>downbeat</h1><ul><li><a href=\"metrics\">metrics</a> in OpenMetrics\
    <li><a href=\"healthz\">health</a></ul></html>\n";

type Snapshots = watch::Receiver<Arc<Snapshot>>;

/// Serves `/metrics`, `/healthz` and `/` until the task is dropped.
///
/// # Errors
/// What the listener says when it cannot accept any more.
pub async fn serve(listener: TcpListener, snapshots: Snapshots) -> io::Result<()> {
    axum::serve(listener, router(snapshots)).await
}

fn router(snapshots: Snapshots) -> Router {
    Router::new()
        .route("/", get(async || Html(PAGE)))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .with_state(snapshots)
}

async fn metrics(State(snapshots): State<Snapshots>) -> Response {
    let snapshot = Arc::clone(&snapshots.borrow());
    match encode(&snapshot) {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// 200 while ticks come, 503 with the reason when they do not.
async fn health(State(snapshots): State<Snapshots>) -> (StatusCode, String) {
    let tick = snapshots.borrow().unix_time;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(tick, |now| now.as_secs_f64());
    let age = now - tick;
    if age > HUNG_AFTER_SECONDS {
        let text = format!("the last tick is {age:.0} s old: the agent hangs\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text);
    }
    (StatusCode::OK, "ok\n".to_owned())
}
