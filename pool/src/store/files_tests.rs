use super::*;
use crate::store::{IndexEntry, State, Store, Wish};
use proptest::prelude::*;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// `model.toml` of model `name` with these versions' contents.
fn describe(name: &str, versions: &[(u32, &[u8])]) -> String {
    let mut text = format!(
        "name = \"{name}\"\nplatform = \"onnx\"\nmedia = \"text\"\nlabels = \"labels.txt\"\n\
         [[input]]\nname = \"i\"\ndatatype = \"FP32\"\nshape = [-1]\n\
         [[output]]\nname = \"o\"\ndatatype = \"FP32\"\nshape = [-1, 2]\n"
    );
    for (number, content) in versions {
        let sum = Sha256(sha2::Sha256::digest(content).into());
        text += &format!("[version.{number}]\nsha256 = \"{sum}\"\n");
    }
    text
}

fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

/// A folder with the model `m`, versions 1 and 2.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("m");
    write(&model.join("model.toml"), describe("m", &[(1, b"one"), (2, b"two")]));
    write(&model.join("labels.txt"), "no\nyes\n");
    write(&model.join("1/model.onnx"), "one");
    write(&model.join("2/model.onnx"), "two");
    (root, model)
}

fn problem(root: &tempfile::TempDir) -> String {
    read(root.path(), "m").unwrap_err()
}

fn version_problem(root: &tempfile::TempDir, version: u32) -> String {
    read(root.path(), "m").unwrap().versions[&version].clone().unwrap_err()
}

#[test]
fn a_model_is_read_with_its_labels_and_versions() {
    let (root, model) = folder();
    write(&root.path().join("README.md"), "no model");
    write(&root.path().join(".git/model.toml"), "no model");
    let models = scan(root.path()).unwrap().models;
    assert_eq!(models.keys().collect::<Vec<_>>(), ["m"]);
    let found = read(root.path(), "m").unwrap();
    assert_eq!(*found.labels, ["no".to_owned(), "yes".to_owned()]);
    let newest = found.versions[&2].as_ref().unwrap();
    assert_eq!(newest.file, model.join("2/model.onnx"));
    assert_eq!(newest.bytes, 3);
}

#[test]
fn the_models_that_ship_are_taken() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let names: Vec<_> = scan(&shipped).unwrap().models.into_keys().collect();
    assert_eq!(names, ["glyphs", "intent", "keywords"]);
    // A copy, since a checkout may let its group write.
    let root = tempfile::tempdir().unwrap();
    for name in &names {
        for file in ["model.toml", "labels.txt", "1/model.onnx"] {
            write(
                &root.path().join(name).join(file),
                fs::read(shipped.join(name).join(file)).unwrap(),
            );
        }
        let found = read(root.path(), name).unwrap();
        assert!(found.description.accuracy.is_some(), "{name} states no accuracy");
        for (number, version) in &found.versions {
            let artifact = version.as_ref().unwrap();
            assert!(artifact.bytes < 2_000_000, "{name} {number}: {} bytes", artifact.bytes);
        }
    }
}

#[test]
fn what_is_wrong_with_a_version_is_its_own_matter() {
    let (root, model) = folder();
    write(&model.join("2/model.onnx"), "tw");
    let reason = version_problem(&root, 2);
    assert!(reason.contains("m/2/model.onnx: its sha256 is"), "{reason}");
    assert!(reason.ends_with("copy the file again, or correct [version.2]"), "{reason}");
    assert!(read(root.path(), "m").unwrap().versions[&1].is_ok());
    fs::remove_file(model.join("2/model.onnx")).unwrap();
    assert!(version_problem(&root, 2).contains("No such file"));
    write(&model.join("3/model.onnx"), "three");
    assert!(version_problem(&root, 3).contains("model.toml has no [version.3]; add it"));
}

#[test]
fn links_out_of_the_folder_are_refused_and_links_within_are_followed() {
    let (root, model) = folder();
    let outside = tempfile::tempdir().unwrap();
    write(&outside.path().join("two"), "two");
    let file = model.join("2/model.onnx");
    for target in [outside.path().join("two"), "../../../two".into(), "/proc/self/exe".into()] {
        fs::remove_file(&file).unwrap();
        symlink(target, &file).unwrap();
        let reason = version_problem(&root, 2);
        assert!(reason.contains("a link leads out of the model folder"), "{reason}");
    }
    fs::remove_file(&file).unwrap();
    write(&model.join("two.onnx"), "two");
    symlink("../two.onnx", &file).unwrap();
    assert!(read(root.path(), "m").unwrap().versions[&2].is_ok());
    fs::remove_file(&file).unwrap();
    symlink("model.onnx", &file).unwrap();
    let reason = version_problem(&root, 2);
    assert!(reason.contains("go round in circles"), "{reason}");
    // The model's own folder may not be elsewhere either.
    symlink(outside.path(), root.path().join("x")).unwrap();
    assert!(!scan(root.path()).unwrap().models.contains_key("x"));
    assert!(read(root.path(), "x").unwrap_err().contains("a link leads out"));
    assert!(read(root.path(), "../m").unwrap_err().contains("a link leads out"));
}

#[test]
fn what_is_no_file_or_too_long_or_open_to_all_is_refused_and_does_not_block() {
    let (root, model) = folder();
    let file = model.join("model.toml");
    let text = fs::read(&file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(problem(&root).contains("mode 666 lets others"));
    write(&file, vec![b'#'; 65 << 10]);
    assert!(problem(&root).contains("longer than 65536 bytes"));
    write(&file, b"\xff");
    assert!(problem(&root).contains("not UTF-8 at byte 0"));
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, Mode::S_IRUSR).unwrap();
    assert!(problem(&root).contains("not a regular file"));
    fs::remove_file(&file).unwrap();
    assert!(problem(&root).contains("m/model.toml: No such file"));
    write(&file, text);
    write(&model.join("labels.txt"), "only\n");
    assert!(problem(&root).contains("1 labels, and the first output has 2 places"));
    write(&model.join("labels.txt"), "no\nyes\n");
    for number in 0..MAX_ENTRIES {
        write(&model.join(format!("n{number}")), "");
    }
    assert!(problem(&root).contains("more than 1000 files and folders"));
    assert!(scan(root.path()).unwrap().models.contains_key("m"), "the others are seen as well");
}

#[test]
fn a_folder_that_is_not_there_is_named_with_its_remedy() {
    let reason = scan(Path::new("/nowhere/models")).unwrap_err();
    assert!(reason.starts_with("/nowhere/models: No such file"), "{reason}");
    assert!(reason.ends_with("make it and put folders of models there"), "{reason}");
}

/// Looks until the index has a line that fits.
fn until(store: &Store, wanted: impl Fn(&IndexEntry) -> bool) -> IndexEntry {
    let start = std::time::Instant::now();
    loop {
        store.look();
        if let Some(entry) = store.index().into_iter().find(&wanted) {
            return entry;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", store.index());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_living_folder_is_followed() {
    let (root, model) = folder();
    let store = Store::new(root.path());
    let mut changes = store.changes();
    store.declare(&BTreeMap::from([("m".into(), Wish::Newest)]));
    until(&store, |it| it.version == Some(2) && it.state == State::Loading);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let served = store.targets()["m"].artifact.clone();
    store.report(&served, crate::store::Report::Ready);
    assert!(changes.has_changed().unwrap());
    // A new version is copied, in two parts.
    write(&model.join("model.toml"), describe("m", &[(2, b"two"), (3, b"three")]));
    write(&model.join("3/model.onnx"), "thr");
    let bad = until(&store, |it| it.version == Some(3) && it.state == State::Unavailable);
    assert!(bad.reason.contains("its sha256 is"), "{bad:?}");
    assert_eq!(store.targets()["m"].artifact.version, 2);
    write(&model.join("3/model.onnx"), "three");
    until(&store, |it| it.version == Some(3) && it.state == State::Loading);
    assert_eq!(store.targets()["m"].artifact.version, 3);
    fs::remove_dir_all(&model).unwrap();
    until(&store, |it| it.version.is_none() && it.reason.contains("is not there"));
    assert!(store.targets().is_empty());
}

#[derive(Clone, Debug)]
enum Thing {
    File(Vec<u8>),
    Folder,
    Link(String),
    Fifo,
}

fn thing() -> impl Strategy<Value = Thing> {
    let target =
        prop::sample::select(vec!["..", ".", "OUTSIDE", "1", "model.toml", "../m", "\u{7f}"]);
    let good = describe("m", &[(1, b"one")]).into_bytes();
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Thing::File),
        Just(Thing::File(good)),
        Just(Thing::File(b"one".into())),
        Just(Thing::Folder),
        target.prop_map(|it| Thing::Link(it.into())),
        Just(Thing::Fifo),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever lies in the folder, in whatever place.
    #[test]
    fn no_content_makes_it_panic(
        things in prop::collection::vec(
            ("(m|n|1|\\PC{1,3})(/(model.toml|labels.txt|1|02|7|99999999999|\\PC{1,3})){0,1}(/model.onnx){0,1}", thing()),
            0..12,
        )
    ) {
        // So deep that no link of the above leads out of what is removed at the end.
        let whole = tempfile::tempdir().unwrap();
        let (root, outside) = (whole.path().join("a/models"), whole.path().join("outside"));
        fs::create_dir_all(&root).unwrap();
        fs::create_dir_all(&outside).unwrap();
        for (path, thing) in things {
            let path = root.join(path.trim_matches('/').replace("..", "_"));
            if !path.starts_with(&root) {
                continue;
            }
            let _ = fs::create_dir_all(path.parent().unwrap());
            // Where two things want one place, the first has it.
            let _ = match thing {
                Thing::File(content) => {
                    if path.exists() { Ok(()) } else { fs::write(&path, content) }
                }
                Thing::Folder => fs::create_dir(&path),
                Thing::Link(target) if target == "OUTSIDE" => symlink(&outside, &path),
                Thing::Link(target) => symlink(target, &path),
                Thing::Fifo => nix::unistd::mkfifo(&path, Mode::S_IRUSR).map_err(Into::into),
            };
        }
        let store = Store::new(&root);
        store.declare(&BTreeMap::from([("m".into(), Wish::Newest), ("x".into(), Wish::Version(0))]));
        store.look();
        let _ = (store.index(), store.targets(), store.load("m", Wish::Newest));
        for name in ["m", "n", "1", "", "..", "/", "\0"] {
            let _ = read(&root, name);
        }
    }
}
