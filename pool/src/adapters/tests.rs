//! Real programs where they are installed.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use downbeat_link::{DataType, Tensor};

use super::*;
use crate::config::{Program, Stdio, StdioFraming};
use crate::groups::Groups;
use crate::inference::Terms;
use crate::launch::Launches;
use crate::paths::Paths;

fn config(words: &[&str], kept: Option<StdioFraming>) -> WorkerConfig {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    WorkerConfig {
        adapter: Some(config::Adapter::Stdio(Stdio { kept })),
        ..WorkerConfig::new("w", Program::Command(words))
    }
}

/// Processes that write nowhere have no need of its folder.
fn home() -> Home {
    let paths = Paths::of(Path::new("/run/none"));
    Home::new("w", &paths, &Groups::default(), &Launches::default())
}

fn worker(words: &[&str], kept: Option<StdioFraming>) -> Adapter {
    Adapter::new(&config(words, kept), None, home).unwrap()
}

/// Answers with what it is asked.
pub(crate) fn cat() -> Adapter {
    worker(&["cat"], None)
}

fn request(input: &[u8]) -> Request {
    let mut data = u32::try_from(input.len()).unwrap().to_le_bytes().to_vec();
    data.extend_from_slice(input);
    Request {
        model: "w".into(),
        version: None,
        id: String::new(),
        shared: vec![],
        inputs: vec![Tensor {
            name: "input".into(),
            datatype: DataType::Bytes,
            shape: vec![1],
            data: data.into(),
        }],
        outputs: vec![],
        terms: Terms::of("test"),
    }
}

async fn answer(adapter: &Adapter, input: &[u8]) -> Result<Vec<u8>, AdapterError> {
    let outputs = adapter.infer(&request(input)).await?;
    assert_eq!((outputs.len(), outputs[0].name.as_str()), (1, "output"));
    let mut strings = outputs[0].strings();
    Ok(strings.next().unwrap().to_vec())
}

async fn refusal(adapter: &Adapter, input: &[u8]) -> Refusal {
    match answer(adapter, input).await.unwrap_err() {
        AdapterError::Refused(refusal) => refusal,
        AdapterError::Lost(reason) => panic!("it is taken for gone: {reason}"),
    }
}

fn installed(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        eprintln!("skipped: {program} is not installed (apt-get install {program})");
    }
    found
}

#[tokio::test]
async fn one_process_a_job() {
    let cat = cat();
    assert_eq!(answer(&cat, b"two\nlines").await.unwrap(), b"two\nlines");
    // More than both pipes hold: it must be written and read at the same time.
    let large = vec![7; 1 << 20];
    assert_eq!(answer(&cat, &large).await.unwrap(), large);
}

#[tokio::test]
async fn a_kept_process_answers_job_after_job() {
    let pids =
        worker(&["sh", "-c", "while read line; do echo $$ $line; done"], Some(StdioFraming::Lines));
    let first = answer(&pids, b"a").await.unwrap();
    let second = answer(&pids, b"b").await.unwrap();
    let pid = |answer: &[u8]| answer.split(|byte| *byte == b' ').next().unwrap().to_vec();
    assert_eq!(pid(&first), pid(&second));
    assert!(matches!(refusal(&pids, b"a\nb").await, Refusal::Invalid(_)));
    let cat = worker(&["cat"], Some(StdioFraming::Length));
    for input in [b"one\n".as_slice(), b"", b"three"] {
        assert_eq!(answer(&cat, input).await.unwrap(), input);
    }
}

#[tokio::test]
async fn a_kept_process_that_ends_is_told_and_started_anew() {
    let one = worker(
        &[
            "sh",
            "-c",
            "read line; [ $line = end ] && { echo bad news >&2; exit 3; }; echo $line; read line",
        ],
        Some(StdioFraming::Lines),
    );
    let error = answer(&one, b"end").await.unwrap_err().to_string();
    assert!(error.contains("bad news"), "{error}");
    assert_eq!(answer(&one, b"good").await.unwrap(), b"good");
}

#[tokio::test]
async fn a_kept_process_may_say_more_than_a_pipe_holds() {
    let script = "while read line; do head -c 200000 /dev/zero >&2; echo $line; done";
    let talks = worker(&["sh", "-c", script], Some(StdioFraming::Lines));
    for line in [b"a", b"b", b"c"] {
        assert_eq!(answer(&talks, line).await.unwrap(), line);
    }
}

#[tokio::test]
async fn a_job_is_over_when_its_process_is_whatever_holds_its_pipes() {
    let child = worker(&["sh", "-c", "sleep 1000 & echo ok"], None);
    assert_eq!(answer(&child, b"").await.unwrap(), b"ok\n");
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "setsid sh -c 'echo > {0}; exec sleep 5' & while [ ! -e {0} ]; do sleep 0.01; done",
        folder.path().join("left-the-group").display()
    );
    let stranger = worker(&["sh", "-c", &script], None);
    let failed = answer(&stranger, b"").await.unwrap_err().to_string();
    assert!(failed.contains("holds its output open"), "{failed}");
    let endless = worker(&["sh", "-c", "head -c 70000000 /dev/zero; sleep 1000"], None);
    let failed = answer(&endless, b"").await.unwrap_err().to_string();
    assert!(failed.contains("longer than 67108864 bytes"), "{failed}");
}

#[tokio::test]
async fn what_goes_wrong_is_said() {
    let missing = refusal(&worker(&["no-such-program"], None), b"").await;
    assert!(
        matches!(&missing, Refusal::Unavailable(reason) if reason.contains("no-such-program: not found in PATH")),
        "{missing}"
    );
    let fails = worker(&["sh", "-c", "echo it is broken >&2; exit 4"], None);
    let failed = answer(&fails, b"").await.unwrap_err().to_string();
    assert_eq!(failed, "`w`: exited with status 4: it is broken");
}

#[tokio::test]
async fn a_job_that_is_given_up_takes_its_processes_along() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    // A child of the child, which holds the pipe.
    let script =
        format!("sh -c 'echo $$ > {0}.new; mv {0}.new {0}; sleep 1000'; true", file.display());
    let slow = worker(&["sh", "-c", &script], None);
    let work = request(b"");
    let job = slow.infer(&work);
    tokio::pin!(job);
    let pid: PathBuf = loop {
        tokio::select! {
            _ = &mut job => panic!("it sleeps"),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
        if let Ok(pid) = std::fs::read_to_string(&file) {
            break ["/proc", pid.trim()].iter().collect();
        }
    };
    job.set(slow.infer(&work));
    let gone =
        || std::fs::read_to_string(pid.join("stat")).map_or(true, |stat| stat.contains(") Z "));
    for _ in 0..2000 {
        if gone() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} still runs", pid.display());
}

#[tokio::test]
async fn espeak_speaks_and_ffmpeg_takes_frames() {
    if installed("espeak-ng") {
        let voice = worker(&["espeak-ng", "--stdin", "--stdout"], None);
        let sound = answer(&voice, b"good morning").await.unwrap();
        assert_eq!(sound.get(..4), Some(b"RIFF".as_slice()));
        assert!(sound.len() > 10_000, "{} bytes", sound.len());
    }
    if installed("ffmpeg") {
        let picture =
            "P6 16 8 255 ".bytes().chain((0..16 * 8 * 3).map(|n| n as u8)).collect::<Vec<_>>();
        let scale = [
            "ffmpeg",
            "-v",
            "error",
            "-f",
            "ppm_pipe",
            "-i",
            "pipe:0",
            "-vf",
            "scale=8:4",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "pipe:1",
        ];
        let spec =
            TensorSpec { name: "frame".into(), datatype: DataType::Uint8, shape: vec![4, 8, 3] };
        let config = WorkerConfig { outputs: vec![spec], ..config(&scale, None) };
        let frames = Adapter::new(&config, None, home).unwrap();
        let outputs = frames.infer(&request(&picture)).await.unwrap();
        assert_eq!((outputs[0].name.as_str(), &outputs[0].shape), ("frame", &vec![4, 8, 3]));
    }
}

#[test]
fn an_open_dimension_follows_from_the_bytes() {
    let spec = |shape: &[i64]| TensorSpec {
        name: "y".into(),
        datatype: DataType::Int16,
        shape: shape.to_vec(),
    };
    assert_eq!(output(&spec(&[-1, 2]), Bytes::from_static(&[0; 12])).unwrap().shape, [3, 2]);
    assert!(output(&spec(&[4, 2]), Bytes::from_static(&[0; 12])).is_err());
    assert!(output(&spec(&[-1]), Bytes::from_static(&[0; 3])).is_err());
}

/// Answers one connection after another with what `reply` makes of each request.
async fn server(reply: impl Fn(&str) -> Vec<u8> + Send + 'static) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut seen = Vec::new();
            let mut piece = [0; 4096];
            loop {
                let text = String::from_utf8_lossy(&seen).into_owned();
                let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
                    let length = head.lines().find_map(|line| {
                        line.to_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok()
                    });
                    body.len() >= length.unwrap_or(0)
                });
                if whole {
                    let _ = stream.write_all(&reply(&text)).await;
                    break;
                }
                let Ok(length @ 1..) = stream.read(&mut piece).await else {
                    break;
                };
                seen.extend_from_slice(&piece[..length]);
            }
        }
    });
    port
}

fn http(port: u16, body: config::HttpBody) -> Adapter {
    by_http(config::Http { port: Some(port), body, ..config::Http::default() })
}

fn elsewhere(url: &str) -> Adapter {
    by_http(config::Http { url: Some(url.into()), ..config::Http::default() })
}

fn by_http(http: config::Http) -> Adapter {
    let http = config::Http { path: Some("/run".into()), ..http };
    let config = WorkerConfig {
        adapter: Some(config::Adapter::Http(http)),
        ..WorkerConfig::new("w", Program::Elsewhere)
    };
    Adapter::new(&config, None, home).unwrap()
}

#[tokio::test]
async fn http_sends_bytes_or_a_form_and_tells_errors() {
    let port = server(|request| {
        let status = if request.contains("wrong!") { "500 No\r\n" } else { "200 OK\r\n" };
        let body = request.to_owned();
        format!("HTTP/1.1 {status}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
    .await;
    let raw =
        String::from_utf8(answer(&http(port, config::HttpBody::Raw), b"bytes").await.unwrap())
            .unwrap();
    assert!(raw.starts_with("POST /run HTTP/1.1\r\n") && raw.ends_with("\r\n\r\nbytes"), "{raw}");
    let form = http(port, config::HttpBody::Form("file".into()));
    let sent = String::from_utf8(answer(&form, b"sound").await.unwrap()).unwrap();
    assert!(
        sent.contains("name=\"file\"; filename=\"file\"") && sent.contains("\r\n\r\nsound\r\n--"),
        "{sent}"
    );
    assert!(
        matches!(refusal(&form, b"wrong!").await, Refusal::Failed(reason) if reason.contains("500"))
    );
    // A process of the pool's own has ended then; another's server may come back.
    let ended = http(1, config::HttpBody::Raw);
    assert!(matches!(answer(&ended, b"").await, Err(AdapterError::Lost(_))));
    let nobody = elsewhere("http://127.0.0.1:1");
    assert!(matches!(refusal(&nobody, b"").await, Refusal::Unavailable(_)));
}

#[tokio::test]
async fn another_oip_server_gets_binary_tensors_and_the_deadline() {
    let port = server(|request| {
        assert!(request.starts_with("POST /v2/models/resnet/infer "), "{request}");
        assert!(request.contains("\"timeout\":"), "{request}");
        let json = r#"{"outputs":[{"name":"y","datatype":"INT16","shape":[2],"parameters":{"binary_data_size":4}}]}"#;
        let head = format!(
            "HTTP/1.1 200 OK\r\ninference-header-content-length: {}\r\ncontent-length: {}\r\n\r\n{json}",
            json.len(),
            json.len() + 4
        );
        [head.as_bytes(), &[1, 0, 2, 0]].concat()
    })
    .await;
    let oip = config::Oip { port: Some(port), model: Some("resnet".into()), url: None };
    let config = WorkerConfig {
        adapter: Some(config::Adapter::Oip(oip)),
        ..WorkerConfig::new("w", Program::Elsewhere)
    };
    let adapter = Adapter::new(&config, None, home).unwrap();
    let mut request = request(b"x");
    request.terms.deadline = Some(std::time::Instant::now() + Duration::from_secs(60));
    let outputs = adapter.infer(&request).await.unwrap();
    assert_eq!((outputs[0].name.as_str(), &outputs[0].data[..]), ("y", [1, 0, 2, 0].as_slice()));
}
