//! Models computed by ONNX Runtime, whose library is that of the Python package.

use std::fs;
use std::path::{Path, PathBuf};

use downbeat_api::pool::WorkerState;

use crate::clients::python;
use crate::models::{Set, ready};
use crate::rest::{MODELS, start};

/// The package's library, which has its version in its name.
fn library() -> PathBuf {
    let python = python();
    let lib = python.parent().unwrap().parent().unwrap().join("lib");
    let version = fs::read_dir(&lib).unwrap().next().unwrap().unwrap().path();
    let folder = version.join("site-packages/onnxruntime/capi");
    let files = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let is_it = |path: &PathBuf| {
        path.file_name().unwrap().to_string_lossy().starts_with("libonnxruntime.so.")
    };
    files.into_iter().find(is_it).unwrap_or_else(|| panic!("none in {}", folder.display()))
}

/// The models that ship, computed by ONNX Runtime, with the library at `path`.
fn workers(path: &Path) -> String {
    ["glyphs", "keywords", "intent"]
        .map(|name| {
            let path = path.display();
            format!(
                "[worker.{name}]\nmodel = \"{name}\"\nengine = \"ort\"\n\
                 env = {{ ORT_DYLIB_PATH = \"{path}\" }}\n"
            )
        })
        .concat()
}

#[test]
fn onnx_runtime_says_what_tract_says() {
    let (pool, address) = start(&workers(&library()), Path::new(MODELS));
    ready(&pool, 3);
    assert!(pool.log().contains("ready: onnxruntime"), "{}", pool.log());
    // The same scores that tract is held against, and the stated accuracy.
    Set::glyphs().run(&address, 32);
    Set::read("intent", "text", "UINT8", &[64]).run(&address, 64);
    Set::keywords().run(&address, 5);
    // The library has a thread of its own that waits; none computes, and none spins.
    for worker in pool.try_status().unwrap().workers {
        let pid = worker.pid.unwrap();
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let task = task.unwrap().path();
            let stat = fs::read_to_string(task.join("stat")).unwrap();
            let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
            let ticks: u64 =
                fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
            let main = task.ends_with(pid.to_string());
            assert!(main || ticks <= 1, "{}: {stat}", worker.name);
        }
    }
}

#[test]
fn a_library_that_is_missing_is_named_with_the_remedy() {
    let (pool, _) = start(&workers(Path::new("/no/libonnxruntime.so")), Path::new(MODELS));
    for name in ["glyphs", "keywords", "intent"] {
        let note = pool.wait_for(name, WorkerState::Failed).note.unwrap();
        assert!(note.contains("/no/libonnxruntime.so: no library of ONNX Runtime"), "{note}");
        assert!(note.contains("ORT_DYLIB_PATH") && note.contains("engine = \"tract\""), "{note}");
    }
}
