//! External workers over REST: programs and servers as they are installed.

use std::path::Path;

use downbeat_api::pool::WorkerState;

use crate::rest::{Answer, Input, MODELS, ask, infer, start};
use crate::support::installed;

fn error(answer: &Answer) -> &str {
    answer.json["error"].as_str().unwrap_or_default()
}

#[test]
fn programs_answer_job_by_job_and_line_by_line() {
    let text = "[worker.cat]\ncommand = [\"cat\"]\nstdio = { mode = \"once\" }\n\
                [worker.count]\nstdio = { mode = \"kept\" }\n\
                command = [\"sh\", \"-c\", \"while read line; do n=$((n+1)); echo $n $line; done\"]\n\
                [worker.fails]\ncommand = [\"sh\", \"-c\", \"echo no luck >&2; exit 4\"]\n\
                stdio = { mode = \"once\" }\n\
                [worker.lost]\ncommand = [\"no-such-program\"]\nstdio = { mode = \"once\" }\n";
    let (pool, address) = start(text, Path::new("/no/models"));
    pool.wait_for("cat", WorkerState::Ready);
    let long = vec![b'x'; 1 << 20];
    assert_eq!(ask(&address, "cat", &long).string(), long);
    assert_eq!(ask(&address, "count", b"a").string(), b"1 a");
    assert_eq!(ask(&address, "count", b"b").string(), b"2 b");
    let failed = ask(&address, "fails", b"");
    assert_eq!(failed.status, 500, "{failed:?}");
    assert!(error(&failed).contains("no luck"), "{failed:?}");
    let lost = ask(&address, "lost", b"");
    assert_eq!(lost.status, 503, "{lost:?}");
    assert!(error(&lost).contains("no-such-program: not found in PATH"), "{lost:?}");
    let note = pool.wait_for("lost", WorkerState::Failed).note.unwrap();
    assert!(note.contains("install it"), "{note}");
    let data = [0; 4];
    let wrong = Input { name: "input", datatype: "FP32", shape: &[1], data: &data };
    let wrong = infer(&address, "cat", &[wrong]);
    assert_eq!(wrong.status, 400, "{wrong:?}");
}

#[test]
fn a_program_runs_where_its_declaration_says() {
    let text = "[worker.where]\nstdio = { mode = \"once\" }\ncpus = \"0\"\nsandbox = true\n\
                command = [\"sh\", \"-c\", \"grep Cpus_allowed_list /proc/self/status; ls /home >&2 && echo open; true\"]\n";
    let (pool, address) = start(text, Path::new("/no/models"));
    pool.wait_for("where", WorkerState::Ready);
    let answer = ask(&address, "where", b"");
    let told = String::from_utf8(answer.string().to_vec()).unwrap();
    assert!(told.starts_with("Cpus_allowed_list:\t0\n"), "{told}");
    // A kernel without Landlock leaves the files open, and the pool says so.
    let closed = !told.contains("open") || pool.log().contains("Landlock");
    assert!(closed, "{told}\n{}", pool.log());
}

#[test]
fn text_becomes_speech_and_a_picture_shrinks() {
    if installed("espeak-ng", "espeak-ng") {
        let text = "[worker.voice]\ncommand = [\"espeak-ng\", \"--stdin\", \"--stdout\"]\n\
                    stdio = { mode = \"once\" }\n";
        let (pool, address) = start(text, Path::new("/no/models"));
        pool.wait_for("voice", WorkerState::Ready);
        let answer = ask(&address, "voice", b"good morning");
        let sound = answer.string();
        assert_eq!(sound.get(..4), Some(b"RIFF".as_slice()));
        assert!(sound.len() > 10_000, "{} bytes", sound.len());
    }
    if installed("ffmpeg", "ffmpeg") {
        let text = "[worker.half]\nstdio = { mode = \"once\" }\n\
                    command = [\"ffmpeg\", \"-v\", \"error\", \"-f\", \"rawvideo\", \
                    \"-pix_fmt\", \"gray\", \"-s\", \"16x8\", \"-i\", \"pipe:0\", \"-vf\", \
                    \"scale=8:4\", \"-f\", \"rawvideo\", \"-pix_fmt\", \"gray\", \"pipe:1\"]\n\
                    inputs = [{ name = \"frame\", datatype = \"UINT8\", shape = [8, 16] }]\n\
                    outputs = [{ name = \"small\", datatype = \"UINT8\", shape = [4, 8] }]\n";
        let (pool, address) = start(text, Path::new("/no/models"));
        pool.wait_for("half", WorkerState::Ready);
        let frame = [100; 128];
        let input = Input { name: "frame", datatype: "UINT8", shape: &[8, 16], data: &frame };
        let answer = infer(&address, "half", &[input]);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.raw.len(), 32);
        assert!(answer.raw.iter().all(|grey| (98..=102).contains(grey)), "{answer:?}");
    }
}

/// Answers after a while, so that its health matters.
const SERVER: &str = r#"
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(200 if time.time() > ready and self.path == "/health" else 503, b"")
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200 if time.time() > ready else 500, body.upper())
    def log_message(self, *_):
        pass
ready = time.time() + 1
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

#[test]
fn a_server_is_ready_when_its_health_says_so() {
    if !installed("python3", "python3") {
        return;
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("server.py");
    std::fs::write(&script, SERVER).unwrap();
    let text = format!(
        "[worker.upper]\ncommand = [\"python3\", \"{}\", \"{{port}}\"]\n\
         http = {{ port = {port}, path = \"/up\", health = \"/health\" }}\n\
         [worker.far]\nhttp = {{ url = \"http://127.0.0.1:{port}\", path = \"/up\", health = \"/health\" }}\n\
         [worker.gone]\nhttp = {{ url = \"http://127.0.0.1:1\", path = \"/up\", health = \"/health\" }}\n",
        script.display()
    );
    let (pool, address) = start(&text, Path::new("/no/models"));
    // It waits: nothing is sent to it before it is ready.
    assert_eq!(ask(&address, "upper", b"abc").string(), b"ABC");
    pool.wait_for("upper", WorkerState::Ready);
    assert_eq!(pool.wait_for("far", WorkerState::Ready).pid, None);
    assert_eq!(ask(&address, "far", b"abc").string(), b"ABC");
    let gone = ask(&address, "gone", b"abc");
    assert_eq!(gone.status, 503, "{gone:?}");
    assert!(error(&gone).contains("127.0.0.1:1"), "{gone:?}");
}

#[test]
fn another_pool_is_a_worker_too() {
    let (inner, inner_address) = start("[worker.glyphs]\nmodel = \"glyphs\"\n", Path::new(MODELS));
    let text =
        format!("[worker.far]\noip = {{ url = \"http://{inner_address}\", model = \"glyphs\" }}\n");
    let (outer, address) = start(&text, Path::new("/no/models"));
    outer.wait_for("far", WorkerState::Ready);
    inner.wait_for("glyphs", WorkerState::Ready);
    let image = [0; 784];
    let input = || Input { name: "image", datatype: "UINT8", shape: &[1, 28, 28], data: &image };
    let through = infer(&address, "far", &[input()]);
    let direct = infer(&inner_address, "glyphs", &[input()]);
    assert_eq!(through.status, 200, "{through:?}");
    assert_eq!(through.raw, direct.raw);
    let short = Input { shape: &[1, 28, 27], data: &image[..756], ..input() };
    let refused = infer(&address, "far", &[short]);
    assert_eq!(refused.status, 400, "{refused:?}");
}
