//! What the pool shows of requests, and requests that are made on behalf of others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use downbeat_api::pool::{ModelState, WorkerState};

use crate::rest::{ask, call, start};

/// The text at a path.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn requests_are_in_the_metrics_and_in_the_status() {
    let text = "[worker.echo]\ncommand = [\"cat\"]\nstdio = { mode = \"once\" }\ndeadline = \"20s\"\n\
                [worker.fails]\ncommand = [\"false\"]\nstdio = { mode = \"once\" }\n";
    let (pool, address) = start(text, Path::new("/no/models"));
    pool.wait_for("echo", WorkerState::Ready);
    for _ in 0..3 {
        assert_eq!(ask(&address, "echo", b"x").string(), b"x");
    }
    assert_eq!(ask(&address, "fails", b"x").status, 500);
    assert_eq!(ask(&address, "made-up", b"x").status, 404);
    assert_eq!(call(&address, "POST /v2/models/echo/infer", "", b"nonsense").status, 400);
    let metrics = get(&address, "/metrics");
    assert!(metrics.contains("content-type: application/openmetrics-text; version=1.0.0"));
    for line in [
        "downbeat_pool_requests_total{model=\"echo\",outcome=\"success\"} 3\n",
        "downbeat_pool_requests_total{model=\"echo\",outcome=\"invalid\"} 1\n",
        "downbeat_pool_requests_total{model=\"fails\",outcome=\"failed\"} 1\n",
        "downbeat_pool_deadline_met_total{model=\"echo\"} 3\n",
        "downbeat_pool_request_duration_seconds_count{model=\"echo\"} 3\n",
        "downbeat_pool_slots{model=\"echo\"} 1.0\n",
    ] {
        assert!(metrics.contains(line), "no {line} in\n{metrics}");
    }
    assert!(!metrics.contains("made-up"), "a client made up a series:\n{metrics}");
    let status = pool.try_status().unwrap();
    let echo = status.models.iter().find(|model| model.name == "echo").unwrap();
    assert_eq!((echo.state, echo.requests, echo.not_answered), (ModelState::Ready, 4, 1));
    assert_eq!(echo.attainment(), Some(1.0));
}

/// Asks `echo` of the pool whose address it is sent, on behalf of the request that it answers.
const PIPELINE: &str = r#"
import http.server, json, sys, urllib.error, urllib.request
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        pool = self.rfile.read(int(self.headers["Content-Length"])).decode()
        parent = self.headers["x-downbeat-parent"]
        body = {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1], "data": ["x"]}]}
        request = urllib.request.Request(
            f"http://{pool}/v2/models/echo/infer", json.dumps(body).encode(),
            {"x-downbeat-parent": parent})
        try:
            said = urllib.request.urlopen(request).status
        except urllib.error.HTTPError as error:
            said = f"{error.code} {error.read().decode()}"
        answer = f"{parent} {said}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

#[test]
fn a_worker_asks_others_on_behalf_of_its_request() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("pipeline.py");
    std::fs::write(&script, PIPELINE).unwrap();
    let text = format!(
        "[worker.echo]\ncommand = [\"cat\"]\nstdio = {{ mode = \"once\" }}\n\
         [worker.pipeline]\ncommand = [\"python3\", \"{}\", \"{{port}}\"]\ndeadline = \"60s\"\n\
         http = {{ port = {port}, path = \"/\", health = \"/\" }}\n",
        script.display()
    );
    let (pool, address) = start(&text, Path::new("/no/models"));
    pool.wait_for("pipeline", WorkerState::Ready);
    let answer = ask(&address, "pipeline", address.as_bytes());
    let said = String::from_utf8(answer.string().to_vec()).unwrap();
    let (parent, status) = said.split_once(' ').unwrap();
    assert!(parent.starts_with("downbeat-") && status == "200", "{said}");
    // It had no deadline of its own, and was answered within that of the pipeline's request.
    let status = pool.try_status().unwrap();
    let echo = status.models.iter().find(|model| model.name == "echo").unwrap();
    assert_eq!((echo.requests, echo.with_deadline, echo.in_time), (1, 1, 1), "{echo:?}");
    // The request is over, and so is what is asked on its behalf.
    let header = format!("x-downbeat-parent: {parent}\r\n");
    let body = br#"{"inputs":[{"name":"input","datatype":"BYTES","shape":[1],"data":["x"]}]}"#;
    let late = call(&address, "POST /v2/models/echo/infer", &header, body);
    assert_eq!(late.status, 503, "{late:?}");
    assert!(late.json["error"].as_str().unwrap().contains("on whose behalf"), "{late:?}");
}
