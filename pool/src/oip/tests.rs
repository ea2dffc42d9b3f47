use super::*;
use axum::http::HeaderMap;
use downbeat_api::pool::{PoolStatus, Worker, WorkerState};

fn message(body: &str) -> String {
    rest::parse(&HeaderMap::new(), body.as_bytes()).unwrap_err().to_string()
}

fn body(name: &str, datatype: &str, shape: &str, data: &str) -> String {
    format!(
        r#"{{"inputs":[{{"name":"{name}","datatype":"{datatype}","shape":{shape},"data":{data}}}]}}"#
    )
}

#[test]
fn wrong_requests_are_told_what_to_send() {
    assert!(message("{").starts_with("not an inference request"));
    assert!(message(&body("pcm", "FP32", "[1]", r#"["a"]"#)).contains("`data` wants numbers"));
    assert!(message(r#"{"inputs":[]}"#).starts_with("0 inputs; the model takes one, `pcm`"));
    let cases = [
        (body("x", "FP32", "[480]", "[]"), "no input `x`; the model takes `pcm`"),
        (body("pcm", "FP64", "[480]", "[]"), "datatype FP64; send FP32"),
        (body("pcm", "FP32", "[481]", "[]"), "shape [481]; send [N]"),
        (body("pcm", "FP32", "[0]", "[]"), "shape [0]; send [N]"),
        (body("pcm", "FP32", "[-480]", "[]"), "shape [-480]; send [N]"),
        (body("pcm", "FP32", "[480, 65]", "[]"), "1 to 64 channels"),
        (body("pcm", "FP32", "[480, 1, 1]", "[]"), "shape [480, 1, 1]"),
        (body("pcm", "FP32", "[480000000]", "[]"), "up to 480000"),
        (body("pcm", "FP32", "[480]", "[0.5]"), "has 1 elements and its shape [480] asks for 480"),
        (body("pcm", "FP32", "[480, 2]", "[[0.5]]"), "a row of `pcm` has 1 elements"),
    ];
    for (body, wanted) in cases {
        assert!(message(&body).contains(wanted), "{} for {body}", message(&body));
    }
    let loud = body("pcm", "INT16", "[480]", &format!("{:?}", [40_000; 480]));
    assert!(message(&loud).contains("element 0 of `pcm` is 40000, which is no INT16"));
    let mut headers = HeaderMap::new();
    headers.insert("Inference-Header-Content-Length", 3.into());
    let binary = rest::parse(&headers, b"{}").unwrap_err().to_string();
    assert!(binary.contains("binary_data=False"), "{binary}");
}

#[test]
fn floats_are_scaled_and_clipped() {
    let mut elements = vec![0.0; FRAME];
    elements[..4].copy_from_slice(&[0.5, -1.0, 1.0, -7.0]);
    let shape = Shape::parse(&[480]).unwrap();
    let sound = Sound::new(DataType::Fp32, shape, &elements).unwrap();
    assert_eq!(sound.samples[..4], [16_384, -32_768, 32_767, -32_768]);
    assert_eq!(sound.floats().next(), Some(0.5));
}

#[test]
fn a_model_that_is_none_is_told_from_one_that_is_missing() {
    let view = View::default();
    let service = Service::new(view.clone());
    let missing = |name: &str, version: &str| service.model(name, version).unwrap_err().to_string();
    assert_eq!(missing("x", ""), "no model `x`; pool.d declares none");
    let model = Model { ready: false, socket: "/s".into(), deadline: None };
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
    assert_eq!(missing("x", ""), "no model `x`; those of pool.d: mic");
    assert!(missing("film", "").contains("is an external command"));
    assert!(missing("mic", "7").contains("no version `7`"));
    assert!(!service.ready());
}

#[tokio::test]
async fn a_taken_port_is_named_and_survived() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let servers = serve(View::default(), Some(address), None).await;
    assert_eq!((servers.rest, servers.grpc), (None, None));
    let problem = &servers.problems[0];
    assert!(problem.starts_with(&format!("--rest {address}: ")), "{problem}");
    assert!(problem.contains("`--rest off`"), "{problem}");
}
