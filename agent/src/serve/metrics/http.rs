//! The HTTP side: a page, the metrics and a health check.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::serve::View;

use super::{CONTENT_TYPE, encode};

/// A picture older than this means that the agent hangs: one is made at least each four seconds.
const HUNG_AFTER_SECONDS: f64 = 10.0;

const PAGE: &str = "<!doctype html><html lang=\"en\"><title>downbeat</title>\
    <h1>downbeat</h1><ul><li><a href=\"metrics\">metrics</a> in OpenMetrics\
    <li><a href=\"healthz\">health</a></ul></html>\n";

/// Serves `/metrics`, `/healthz` and `/` until the task is dropped.
///
/// # Errors
/// What the listener says when it cannot accept any more.
pub async fn serve(listener: TcpListener, view: View) -> io::Result<()> {
    axum::serve(listener, router(view)).await
}

fn router(view: View) -> Router {
    Router::new()
        .route("/", get(async || Html(PAGE)))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .with_state(view)
}

async fn metrics(State(mut view): State<View>) -> Response {
    let snapshot = view.fresh().await;
    match encode(&snapshot) {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// 200 while ticks come, 503 with the reason when they do not.
async fn health(State(view): State<View>) -> (StatusCode, String) {
    let tick = view.latest().unix_time;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(tick, |now| now.as_secs_f64());
    let age = now - tick;
    if age > HUNG_AFTER_SECONDS {
        let text = format!("the last tick is {age:.0} s old: the agent hangs\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text);
    }
    (StatusCode::OK, "ok\n".to_owned())
}
