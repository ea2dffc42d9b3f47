//! `/v1/*`: passed on as it is, both ways and piece by piece, to a worker that declares
//! `openai = true`. With one such worker everything goes there. With several, the `model` of a JSON
//! body names the worker, and `GET /v1/models` lists them.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use super::Service;
use super::body::{self, Patience, Refused};
use crate::view::Openai;

/// For a worker on this machine, or near it, to take a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// What belongs to one connection and is not passed on (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Passes a request on.
pub async fn pass(State(service): State<Service>, request: Request) -> Response {
    let workers = service.models.openai();
    match choose(&workers, &service, request).await {
        Ok(Some((address, request))) => forward(&address, request)
            .await
            .unwrap_or_else(|(status, message)| error(status, &message)),
        Ok(None) => list(&workers),
        Err((status, message)) => error(status, &message),
    }
}

/// The address that a request goes to; nothing where the workers themselves are asked for.
async fn choose(
    workers: &Openai,
    service: &Service,
    request: Request,
) -> Result<Option<(String, Request)>, Refused> {
    if workers.is_empty() {
        return Err((
            StatusCode::NOT_FOUND,
            "no worker of pool.d declares `openai = true`, so nothing is at /v1".into(),
        ));
    }
    if let [(name, addresses)] = &workers.iter().collect::<Vec<_>>()[..] {
        return Ok(Some((one_of(name, addresses)?, request)));
    }
    if request.method() == Method::GET && request.uri().path() == "/v1/models" {
        return Ok(None);
    }
    let (head, body) = request.into_parts();
    let whole = body::take(body, &service.budget, Patience::default()).await?;
    let (name, addresses) = named(workers, &whole.bytes)?;
    let address = one_of(name, addresses)?;
    Ok(Some((address, Request::from_parts(head, Body::from(whole.bytes)))))
}

/// The worker that the `model` of a JSON body names.
fn named<'a>(workers: &'a Openai, body: &[u8]) -> Result<(&'a str, &'a [String]), Refused> {
    #[derive(Deserialize)]
    struct Asked {
        model: String,
    }
    let known = || workers.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let asked: Asked = serde_json::from_slice(body).map_err(|reason| {
        let message = format!(
            "several workers take /v1/*, so the body is a JSON object whose `model` is one of {}: \
             {reason}",
            known()
        );
        (StatusCode::BAD_REQUEST, message)
    })?;
    workers.get_key_value(&asked.model).map(|(name, at)| (name.as_str(), at.as_slice())).ok_or_else(
        || {
            let message = format!("no model `{}`; those at /v1 are {}", asked.model, known());
            (StatusCode::NOT_FOUND, message)
        },
    )
}

fn one_of(name: &str, addresses: &[String]) -> Result<String, Refused> {
    fastrand::choice(addresses).cloned().ok_or_else(|| {
        (StatusCode::SERVICE_UNAVAILABLE, format!("worker `{name}` is not ready; try again"))
    })
}

async fn forward(address: &str, request: Request) -> Result<Response, Refused> {
    let failed = |what: &str, reason: &dyn std::fmt::Display| {
        let message = format!("worker at {address}: {what}: {reason}; it may just have died");
        (StatusCode::BAD_GATEWAY, message)
    };
    let stream = timeout(CONNECT, TcpStream::connect(address))
        .await
        .map_err(|_| failed("connect", &format_args!("nothing within {CONNECT:?}")))?
        .map_err(|reason| failed("connect", &reason))?;
    // Tokens are small and each is waited for.
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|reason| failed("connect", &reason))?;
    // It ends with the answer's body, also where the client goes away before that.
    tokio::spawn(async move {
        if let Err(reason) = connection.await {
            debug!("/v1 worker: {reason}");
        }
    });
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().cloned();
    head.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    strip(&mut head.headers);
    if let Ok(host) = HeaderValue::from_str(address) {
        head.headers.insert(HOST, host);
    }
    let answer = sender
        .send_request(Request::from_parts(head, body))
        .await
        .map_err(|reason| failed("no answer", &reason))?;
    let (mut head, body) = answer.into_parts();
    strip(&mut head.headers);
    Ok(Response::from_parts(head, Body::new(body)))
}

/// Removes what is a matter between two neighbours, with what `Connection` names.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // The length is no matter between neighbours, whatever a client claims.
        .filter(|name| *name != CONTENT_LENGTH)
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

fn list(workers: &Openai) -> Response {
    // Clients want a time of making; nobody knows it.
    let model = |name: &String| json!({ "id": name, "object": "model", "created": 0, "owned_by": "downbeat" });
    let data: Vec<_> = workers.keys().map(model).collect();
    Json(json!({ "object": "list", "data": data })).into_response()
}

/// An error as clients of this protocol expect it.
fn error(status: StatusCode, message: &str) -> Response {
    let kind = if status.is_client_error() { "invalid_request_error" } else { "server_error" };
    let error = json!({ "message": message, "type": kind, "param": null, "code": null });
    (status, Json(json!({ "error": error }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_the_body_names_the_worker() {
        let workers: Openai = [("a", vec!["h:1".to_owned()]), ("b", vec![])]
            .map(|(name, at)| (name.to_owned(), at))
            .into();
        assert_eq!(named(&workers, br#"{"x":1,"model":"a"}"#).unwrap().0, "a");
        let (status, message) = named(&workers, br#"{"model":"c"}"#).unwrap_err();
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(message.contains("no model `c`; those at /v1 are a, b"), "{message}");
        for body in [&b""[..], b"{}", b"--form", b"{\"model\":7}"] {
            let (status, message) = named(&workers, body).unwrap_err();
            assert_eq!(status, StatusCode::BAD_REQUEST);
            assert!(message.contains("`model` is one of a, b"), "{message}");
        }
        assert_eq!(one_of("b", &workers["b"]).unwrap_err().0, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn what_is_between_neighbours_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-private, content-length"),
            ("x-private", "1"),
            ("transfer-encoding", "chunked"),
            ("content-length", "7"),
            ("authorization", "Bearer k"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        strip(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "content-length"]);
    }
}
