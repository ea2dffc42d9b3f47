use super::*;
use crate::adapters::denoise;
use crate::dispatch::Dispatcher;
use crate::store::Store;
use crate::view::{Kind, Model, Standing, View};
use downbeat_api::pool::{PoolStatus, Worker, WorkerState};

fn backend(view: View) -> Backend {
    let store = Store::new(std::path::Path::new("/no/models"));
    Backend::new(view, Dispatcher::new(Default::default()), store)
}

#[tokio::test]
async fn a_model_that_is_none_is_told_from_one_that_is_missing() {
    let view = View::default();
    let models = Models::new(backend(view.clone()));
    let missing = |name: &str, version: Option<&str>| {
        let refusal = models.metadata(name, version).unwrap_err();
        assert!(matches!(refusal, Refusal::NotFound(_)));
        refusal.to_string()
    };
    assert_eq!(missing("x", None), "no model `x`; pool.d declares none");
    let kind = Kind::Denoise;
    let standing = Standing::Down("its worker failed".into());
    let metadata = Some(denoise::metadata("mic").into());
    let model = Model { standing, metadata, kind, deadline: None };
    view.lock().models.insert("mic".into(), model);
    view.lock().status = PoolStatus {
        workers: vec![Worker {
            name: "film".into(),
            kind: "ffmpeg".into(),
            state: WorkerState::Ready,
            pid: None,
            restarts: 0,
            note: None,
            socket: None,
            frames: None,
            missed: None,
            compute_p50_ns: None,
            compute_p99_ns: None,
        }],
        ..PoolStatus::default()
    };
    assert_eq!(missing("x", None), "no model `x`; those of pool.d: mic");
    assert!(missing("film", None).contains("is an external command"));
    assert!(missing("mic", Some("7")).contains("no version `7`"));
    assert!(!models.ready());
    let [entry] = &models.index()[..] else { panic!("{:?}", models.index()) };
    assert_eq!((entry.name.as_str(), entry.state()), ("mic", "UNAVAILABLE"));
}

#[tokio::test]
async fn a_taken_port_is_said_and_survived() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let places = Places { rest: taken.local_addr().ok(), ..Places::default() };
    let servers = serve(backend(View::default()), places).await;
    assert_eq!((servers.rest, servers.grpc), (None, None));
    assert!(servers.problems[0].starts_with("--rest 127.0.0.1:"), "{:?}", servers.problems);
}
