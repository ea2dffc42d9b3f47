//! Instances come and go with the load and with the memory; a crash loop is told to whoever asks.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use downbeat_api::pool::{Worker, WorkerState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::models::Set;
use crate::rest::{Answer, MODELS, ask, start, start_with};
use crate::support::TestPool;

/// What a change may take, in a debug build on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn until(what: &str, pool: &TestPool, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "no {what}: {:#?}\n{}", pool.try_status(), pool.log());
        thread::sleep(Duration::from_millis(50));
    }
}

fn workers(pool: &TestPool, name: &str) -> Vec<Worker> {
    let all = pool.try_status().map(|status| status.workers).unwrap_or_default();
    let of = |it: &Worker| it.name == name || it.name.starts_with(&format!("{name}#"));
    all.into_iter().filter(|it| of(it) && it.pid.is_some()).collect()
}

fn reason(answer: &Answer) -> &str {
    answer.json["error"].as_str().unwrap_or_default()
}

/// A server of HTTP, one instance a port, that takes its time.
fn server(pool: &Path, port: u16, instances: &str, more: &str) -> String {
    let script = pool.join("server.py");
    fs::write(
        &script,
        "import http.server, sys, time\n\
         class Handler(http.server.BaseHTTPRequestHandler):\n\
         \tdef do_POST(self):\n\
         \t\tbody = self.rfile.read(int(self.headers['Content-Length']))\n\
         \t\ttime.sleep(0.2)\n\
         \t\tself.send_response(200); self.send_header('Content-Length', str(len(body)))\n\
         \t\tself.end_headers(); self.wfile.write(body)\n\
         \tdef log_message(self, *args): pass\n\
         http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()\n",
    )
    .unwrap();
    format!(
        "[worker.slow]\ncommand = [\"python3\", \"{}\", \"{{port}}\"]\n\
         http = {{ port = {port}, path = \"/\" }}\ninstances = {instances}\n{more}\n",
        script.display()
    )
}

fn has_python() -> bool {
    let found = std::process::Command::new("python3").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: python3 is not installed (apt-get install python3)");
    }
    found
}

/// Asks from `clients` threads without a pause while `meanwhile` runs.
fn under_load(address: &str, clients: usize, meanwhile: impl FnOnce()) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for client in 0..clients {
            let over = &over;
            scope.spawn(move || {
                let word = format!("client {client}");
                while !over.load(Ordering::Relaxed) {
                    let answer = ask(address, "slow", word.as_bytes());
                    assert!(answer.status == 200 || answer.status == 503, "{answer:?}");
                    if answer.status == 200 {
                        assert_eq!(answer.string(), word.as_bytes(), "another's answer");
                    }
                }
            });
        }
        meanwhile();
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn instances_come_under_load_and_go_after_it() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let text = server(folder.path(), 18_640, "{ min = 1, max = 3 }", "idle = \"1s\"");
    let (pool, address) = start(&text, Path::new("/no/models"));
    pool.wait_for("slow", WorkerState::Ready);
    assert_eq!(workers(&pool, "slow").len(), 1);
    under_load(&address, 6, || {
        until("three instances", &pool, || {
            let ready = |it: &&Worker| it.state == WorkerState::Ready;
            workers(&pool, "slow").iter().filter(ready).count() == 3
        });
    });
    until("one instance again", &pool, || workers(&pool, "slow").len() == 1);
    assert_eq!(ask(&address, "slow", b"a").string(), b"a");
}

#[test]
fn a_spare_stands_beside_one_that_works() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let instances = "{ min = 1, max = 4, spare = 1 }";
    let text = server(folder.path(), 18_650, instances, "media = \"audio\"\nidle = \"1s\"");
    let (pool, address) = start(&text, Path::new("/no/models"));
    pool.wait_for("slow", WorkerState::Ready);
    under_load(&address, 1, || {
        until("a spare", &pool, || workers(&pool, "slow").len() >= 2);
    });
    until("one instance", &pool, || workers(&pool, "slow").len() == 1);
}

#[test]
fn a_crash_loop_is_told_at_once_and_ends_with_sighup() {
    let text = "[worker.glyphs]\nmodel = \"glyphs\"\n[worker.cat]\ncommand = [\"cat\"]\n\
                stdio = { mode = \"once\" }\n";
    let (pool, address) = start(text, Path::new(MODELS));
    let failed = || {
        let status = pool.try_status().unwrap();
        status.workers.iter().any(|it| it.name == "glyphs" && it.state == WorkerState::Failed)
    };
    until("a crash loop", &pool, || {
        for worker in workers(&pool, "glyphs") {
            let pid = Pid::from_raw(worker.pid.unwrap().cast_signed());
            let _ = kill(pid, Signal::SIGKILL);
        }
        assert_eq!(ask(&address, "cat", b"others answer").string(), b"others answer");
        failed()
    });
    let began = Instant::now();
    for _ in 0..20 {
        let answer = ask(&address, "glyphs", b"a");
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(reason(&answer).contains("5 times within 60 s"), "{answer:?}");
        assert!(reason(&answer).contains("SIGHUP"), "{answer:?}");
    }
    assert!(began.elapsed() < PATIENCE, "it was not told at once");
    pool.signal(Signal::SIGHUP);
    pool.wait_for("glyphs", WorkerState::Ready);
    let answer = ask(&address, "glyphs", b"a");
    assert_eq!(answer.status, 400, "an image was asked for: {answer:?}");
}

#[test]
fn what_waits_for_a_model_is_refused_when_it_fails_for_good() {
    let text = "[worker.dies]\ncommand = [\"sh\", \"-c\", \"exit 3\"]\n\
                http = { port = 18660, path = \"/\" }\n";
    let (pool, address) = start(text, Path::new("/no/models"));
    // It comes while the model may still come up, and has no deadline.
    let answer = ask(&address, "dies", b"a");
    assert_eq!(answer.status, 503, "{answer:?}\n{}", pool.log());
    assert!(reason(&answer).contains("exited with status 3"), "{answer:?}");
}

#[test]
fn a_model_that_rests_is_unloaded_for_one_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let meminfo = folder.path().join("meminfo");
    let free = |mebibytes: u64| {
        let text = format!("MemAvailable: {} kB\n", mebibytes * 1024);
        let new = folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &meminfo).unwrap();
    };
    free(4096);
    let instances = "instances = { min = 0, max = 1 }\nidle = \"1h\"\n";
    let text = format!(
        "[worker.glyphs]\nmodel = \"glyphs\"\n{instances}\
         [worker.intent]\nmodel = \"intent\"\n{instances}"
    );
    let arguments = ["--models", MODELS, "--meminfo", meminfo.to_str().unwrap()];
    let (pool, address) = start_with(&text, &arguments);
    let (glyphs, intent) = (Set::glyphs(), Set::read("intent", "text", "UINT8", &[64]));
    let answers = |set: &Set| set.ask(&address, 0, 1).status == 200;
    free(1);
    let refused = glyphs.ask(&address, 0, 1);
    assert_eq!(refused.status, 503, "{refused:?}\n{}", pool.log());
    assert!(reason(&refused).contains("1 MiB are free"), "{refused:?}");
    free(4096);
    until("the first", &pool, || answers(&glyphs));
    // Enough for the second only without the first, once that rests.
    free(80);
    until("the second", &pool, || {
        if workers(&pool, "glyphs").is_empty() {
            // What it had is free now.
            free(4096);
        }
        answers(&intent)
    });
    let note = |name: &str| {
        let status = pool.try_status().unwrap();
        status.workers.into_iter().find(|it| it.name == name).and_then(|it| it.note)
    };
    let said = note("glyphs").unwrap_or_default();
    assert!(said.contains("unloaded to make room"), "{said}\n{}", pool.log());
    until("the first again", &pool, || answers(&glyphs));
    assert_eq!(workers(&pool, "intent").len(), 1, "there was room for both\n{}", pool.log());
}

#[test]
fn threads_beyond_the_cpus_are_told_of() {
    let text = "[worker.cam]\ncommand = [\"sleep\", \"1000\"]\nmedia = \"video\"\n\
                cpus = \"0\"\nthreads = 3\n";
    let pool = TestPool::start(text);
    let note = pool.wait("note", |status| status.note.is_some()).note.unwrap();
    assert!(note.contains("cam is declared with 3 threads for 1 CPU"), "{note}");
    assert!(pool.log().contains("WARN oversubscribed"), "{}", pool.log());
}
