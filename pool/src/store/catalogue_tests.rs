use super::*;
use crate::store::description::{self, Sha256};
use crate::store::facts::{Stamp, State};
use proptest::prelude::*;
use std::path::Path;

const SECOND: Duration = Duration::from_secs(1);

fn sum(of: u8) -> Sha256 {
    Sha256([of; 32])
}

fn artifact(version: u32, content: u8) -> Artifact {
    Artifact {
        model: "m".into(),
        version,
        file: format!("/models/m/{version}/model.onnx").into(),
        sha256: sum(content),
        bytes: 1,
    }
}

/// A model `m` with these versions: contents, or what is wrong.
fn candidate(versions: &[(u32, Result<u8, &str>)]) -> Candidate {
    let text = format!(
        "name = \"m\"\nplatform = \"onnx\"\nmedia = \"text\"\n\
         [[input]]\nname = \"i\"\ndatatype = \"FP32\"\nshape = [-1]\n\
         [[output]]\nname = \"o\"\ndatatype = \"FP32\"\nshape = [-1]\n\
         [version.1]\nsha256 = \"{}\"",
        sum(0)
    );
    let description = description::parse(Path::new("x"), "m", &text).unwrap();
    let version = |&(number, content): &(u32, Result<u8, &str>)| {
        let read = content.map(|it| Arc::new(artifact(number, it))).map_err(str::to_owned);
        (number, read)
    };
    Candidate {
        description: Arc::new(description),
        labels: Arc::new([]),
        versions: versions.iter().map(version).collect(),
    }
}

fn look(content: u64, age: Duration) -> Fingerprint {
    let time = Duration::from_secs(content);
    let stamp = Stamp { inode: 1, bytes: content, modified: time, changed: time };
    Fingerprint { age, stamps: BTreeMap::from([("m/model.toml".into(), Some(stamp))]) }
}

fn scan(content: u64) -> Result<Scan, String> {
    Ok(Scan { models: BTreeMap::from([("m".into(), look(content, Duration::ZERO))]) })
}

/// A catalogue with a clock.
#[derive(Default)]
struct Bench {
    catalogue: Catalogue,
    now: Duration,
    content: u64,
}

impl Bench {
    fn wanted(wish: Wish) -> Self {
        let mut bench = Self::default();
        bench.catalogue.declare(&BTreeMap::from([("m".into(), wish)]));
        bench
    }

    /// The folder changes, settles, and is read as this.
    fn becomes(&mut self, read: Result<Candidate, String>) {
        self.content += 1;
        assert!(self.catalogue.observe(scan(self.content), self.now).is_empty());
        self.now += SECOND;
        assert_eq!(self.catalogue.observe(scan(self.content), self.now), ["m"]);
        let print = look(self.content, Duration::ZERO);
        self.catalogue.take("m", read, Some(&print), self.now);
    }

    fn target(&self) -> Option<(u32, u8)> {
        let targets = self.catalogue.targets();
        targets.get("m").map(|it| (it.artifact.version, it.artifact.sha256.0[0]))
    }

    fn report(&mut self, version: u32, content: u8, report: Report) {
        self.catalogue.report(&artifact(version, content), report);
    }

    fn index(&self) -> Vec<(Option<u32>, State, String)> {
        self.catalogue.index().into_iter().map(|it| (it.version, it.state, it.reason)).collect()
    }
}

fn failed(reason: &str) -> Report {
    Report::Failed(reason.into())
}

#[test]
fn the_newest_version_is_served_unless_another_is_asked_for() {
    let both = || Ok(candidate(&[(2, Ok(2)), (10, Ok(10)), (9, Ok(9))]));
    let mut newest = Bench::wanted(Wish::Newest);
    newest.becomes(both());
    assert_eq!(newest.target(), Some((10, 10)));
    let mut asked = Bench::wanted(Wish::Version(2));
    asked.becomes(both());
    assert_eq!(asked.target(), Some((2, 2)));
    let mut nobody = Bench::default();
    nobody.becomes(both());
    assert_eq!(nobody.target(), None);
    assert_eq!(nobody.index()[0], (Some(2), State::Unavailable, "unloaded".into()));
    assert_eq!(nobody.catalogue.describe("m", None).unwrap().artifact.version, 10);
}

#[test]
fn a_folder_that_keeps_changing_is_not_read() {
    let mut bench = Bench::wanted(Wish::Newest);
    for content in 0..20 {
        assert!(bench.catalogue.observe(scan(content), bench.now).is_empty());
        bench.now += SECOND * 9 / 10;
    }
    let (_, state, reason) = bench.index().remove(0);
    assert_eq!(state, State::Loading);
    assert!(reason.contains("has just changed"), "{reason}");
    bench.now += SECOND;
    assert_eq!(bench.catalogue.observe(scan(19), bench.now), ["m"]);
    assert!(bench.catalogue.observe(scan(19), bench.now + SECOND * 9).is_empty(), "read once");
}

#[test]
fn what_has_been_at_rest_before_the_start_is_read_at_once() {
    let mut catalogue = Catalogue::default();
    let models = BTreeMap::from([("m".into(), look(1, SECOND * 5))]);
    assert_eq!(catalogue.observe(Ok(Scan { models }), Duration::ZERO), ["m"]);
}

#[test]
fn what_changes_while_it_is_read_is_not_taken() {
    let mut bench = Bench::wanted(Wish::Newest);
    bench.catalogue.observe(scan(1), bench.now);
    bench.now += SECOND;
    assert_eq!(bench.catalogue.observe(scan(1), bench.now), ["m"]);
    let other = look(2, Duration::ZERO);
    bench.catalogue.take("m", Ok(candidate(&[(1, Ok(1))])), Some(&other), bench.now);
    assert_eq!(bench.target(), None);
    bench.now += SECOND;
    assert_eq!(bench.catalogue.observe(scan(2), bench.now), ["m"]);
}

#[test]
fn a_bad_new_version_leaves_the_old_one_serving() {
    let mut bench = Bench::wanted(Wish::Newest);
    bench.becomes(Ok(candidate(&[(1, Ok(1))])));
    bench.report(1, 1, Report::Ready);
    bench.becomes(Ok(candidate(&[(1, Ok(1)), (2, Err("its sha256 is wrong"))])));
    assert_eq!(bench.target(), Some((1, 1)));
    let wanted = [
        (Some(1), State::Ready, String::new()),
        (Some(2), State::Unavailable, "its sha256 is wrong".into()),
    ];
    assert_eq!(bench.index(), wanted);
    // Right by its checksum, and no worker can load it.
    bench.becomes(Ok(candidate(&[(1, Ok(1)), (2, Ok(2))])));
    assert_eq!(bench.target(), Some((2, 2)));
    assert_eq!(bench.index()[1].1, State::Loading);
    bench.report(2, 2, failed("no such operator"));
    assert_eq!(bench.target(), Some((1, 1)));
    assert_eq!(bench.index()[1], (Some(2), State::Unavailable, "no such operator".into()));
    // Put right: another file, another chance.
    bench.becomes(Ok(candidate(&[(1, Ok(1)), (2, Ok(3))])));
    assert_eq!(bench.target(), Some((2, 3)));
    bench.report(2, 3, Report::Ready);
    bench.report(1, 1, Report::Stopped);
    assert_eq!(bench.index()[0], (Some(1), State::Unavailable, "unloaded".into()));
    assert_eq!(bench.index()[1], (Some(2), State::Ready, String::new()));
}

#[test]
fn a_bad_description_changes_nothing_but_the_reason() {
    let mut bench = Bench::wanted(Wish::Newest);
    bench.becomes(Ok(candidate(&[(1, Ok(1))])));
    bench.report(1, 1, Report::Ready);
    bench.becomes(Err("m/model.toml:3:1: unknown field".into()));
    assert_eq!(bench.target(), Some((1, 1)));
    let reason = "m/model.toml:3:1: unknown field";
    assert_eq!(bench.index(), [(Some(1), State::Ready, reason.into())]);
    bench.becomes(Ok(candidate(&[(1, Ok(1))])));
    assert_eq!(bench.index(), [(Some(1), State::Ready, String::new())]);
}

#[test]
fn what_could_not_be_read_is_tried_again() {
    let mut bench = Bench::wanted(Wish::Newest);
    bench.becomes(Err("m: Too many open files".into()));
    bench.now += RETRY - SECOND;
    assert!(bench.catalogue.observe(scan(1), bench.now).is_empty());
    bench.now += SECOND;
    assert_eq!(bench.catalogue.observe(scan(1), bench.now), ["m"]);
    let print = look(1, Duration::ZERO);
    bench.catalogue.take("m", Ok(candidate(&[(1, Ok(1))])), Some(&print), bench.now);
    assert_eq!(bench.target(), Some((1, 1)));
}

#[test]
fn a_file_that_becomes_bad_is_served_while_a_worker_has_it() {
    let mut bench = Bench::wanted(Wish::Newest);
    bench.becomes(Ok(candidate(&[(1, Ok(1))])));
    bench.report(1, 1, Report::Ready);
    bench.becomes(Ok(candidate(&[(1, Err("its sha256 is wrong"))])));
    assert_eq!(bench.target(), Some((1, 1)));
    assert_eq!(bench.index(), [(Some(1), State::Ready, "its sha256 is wrong".into())]);
    bench.report(1, 1, Report::Stopped);
    assert_eq!(bench.target(), None);
    assert_eq!(bench.index(), [(Some(1), State::Unavailable, "its sha256 is wrong".into())]);
}

#[test]
fn a_folder_that_is_gone_is_unloaded_and_one_that_cannot_be_seen_is_not() {
    let mut bench = Bench::wanted(Wish::Newest);
    bench.becomes(Ok(candidate(&[(1, Ok(1))])));
    bench.report(1, 1, Report::Ready);
    bench.catalogue.observe(Err("/models: Permission denied".into()), bench.now);
    bench.now += SECOND * 9;
    bench.catalogue.observe(Err("/models: Permission denied".into()), bench.now);
    assert_eq!(bench.target(), Some((1, 1)));
    assert_eq!(bench.catalogue.note(), Some("/models: Permission denied"));
    // Gone for a moment, as when one folder is moved away and another into its place.
    bench.catalogue.observe(Ok(Scan::default()), bench.now);
    assert_eq!(bench.target(), Some((1, 1)));
    bench.now += SECOND;
    bench.catalogue.observe(Ok(Scan::default()), bench.now);
    assert_eq!(bench.target(), None);
    let (version, state, reason) = bench.index().remove(0);
    assert_eq!((version, state), (None, State::Unavailable));
    assert!(reason.contains("is not there"), "{reason}");
    assert!(matches!(bench.catalogue.load("m", Wish::Newest), Err(StoreError::Unknown { .. })));
    bench.becomes(Ok(candidate(&[(1, Ok(1))])));
    assert_eq!(bench.target(), Some((1, 1)));
}

#[test]
fn clients_load_and_unload() {
    let mut bench = Bench::default();
    bench.becomes(Ok(candidate(&[(1, Ok(1)), (2, Ok(2)), (3, Err("too long"))])));
    let error = bench.catalogue.load("x", Wish::Newest).unwrap_err();
    assert_eq!(error.to_string(), "no model `x`; the model folder has m");
    let error = bench.catalogue.load("m", Wish::Version(7)).unwrap_err();
    assert_eq!(error.to_string(), "model `m` has no version 7; it has 1, 2, 3");
    let error = bench.catalogue.load("m", Wish::Version(3)).unwrap_err();
    assert_eq!(error.to_string(), "model `m` cannot be loaded: too long");
    assert_eq!(bench.target(), None);
    bench.catalogue.load("m", Wish::Version(1)).unwrap();
    assert_eq!(bench.target(), Some((1, 1)));
    // What failed is tried again when somebody asks again.
    bench.report(1, 1, failed("no memory"));
    assert_eq!(bench.target(), None);
    bench.catalogue.load("m", Wish::Version(1)).unwrap();
    assert_eq!(bench.target(), Some((1, 1)));
    bench.catalogue.unload("m").unwrap();
    assert_eq!(bench.target(), None);
    assert!(bench.catalogue.unload("x").is_err());
}

#[test]
fn another_wish_leaves_the_old_version_until_the_new_one_is_there() {
    let mut bench = Bench::wanted(Wish::Version(1));
    bench.becomes(Ok(candidate(&[(1, Ok(1)), (2, Err("too long"))])));
    bench.report(1, 1, Report::Ready);
    bench.catalogue.declare(&BTreeMap::from([("m".into(), Wish::Version(2))]));
    assert_eq!(bench.target(), Some((1, 1)));
    bench.catalogue.declare(&BTreeMap::new());
    assert_eq!(bench.target(), None);
}

#[test]
fn a_report_of_a_file_that_was_replaced_is_not_noted() {
    let mut bench = Bench::wanted(Wish::Newest);
    bench.becomes(Ok(candidate(&[(1, Ok(2))])));
    bench.report(1, 1, Report::Ready);
    assert_eq!(bench.index(), [(Some(1), State::Loading, String::new())]);
    bench.report(9, 1, Report::Ready);
    bench.catalogue.report(&Artifact { model: "x".into(), ..artifact(1, 1) }, Report::Ready);
}

#[derive(Clone, Debug)]
enum Step {
    Look(Option<u64>),
    Read(Vec<(u32, Option<u8>)>),
    Report(u32, u8, u8),
    Wish(Option<u32>),
    Unload,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let versions = prop::collection::vec((1..4_u32, prop::option::of(0..3_u8)), 0..4);
    prop_oneof![
        prop::option::of(0..3_u64).prop_map(Step::Look),
        versions.prop_map(Step::Read),
        (1..4_u32, 0..3_u8, 0..3_u8).prop_map(|(v, content, kind)| Step::Report(v, content, kind)),
        prop::option::of(0..4_u32).prop_map(Step::Wish),
        Just(Step::Unload),
        (0..3_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever happens in whatever order: a target is never known to be bad, a ready model is
    /// never without one while it is wanted, and the index tells of every target.
    #[test]
    fn a_wanted_model_that_works_always_has_a_target(
        steps in prop::collection::vec(step(), 0..60)
    ) {
        let (mut catalogue, mut now) = (Catalogue::default(), Duration::ZERO);
        for step in steps {
            match step {
                Step::Look(content) => {
                    let models = content.map(|it| ("m".to_owned(), look(it, Duration::ZERO)));
                    let scan = Scan { models: models.into_iter().collect() };
                    for name in catalogue.observe(Ok(scan), now) {
                        let print = content.map(|it| look(it, Duration::ZERO));
                        let read = Ok(candidate(&[(1, Ok(1))]));
                        catalogue.take(&name, read, print.as_ref(), now);
                    }
                }
                Step::Read(versions) => {
                    let versions: Vec<_> =
                        versions.iter().map(|(v, it)| (*v, it.ok_or("bad"))).collect();
                    let print = look(1, Duration::ZERO);
                    catalogue.take("m", Ok(candidate(&versions)), Some(&print), now);
                }
                Step::Report(version, content, kind) => {
                    let report = match kind {
                        0 => Report::Ready,
                        1 => Report::Failed("no".into()),
                        _ => Report::Stopped,
                    };
                    catalogue.report(&artifact(version, content), report);
                }
                Step::Wish(Some(0)) => {
                    let _ = catalogue.load("m", Wish::Newest);
                }
                Step::Wish(Some(version)) => {
                    let _ = catalogue.load("m", Wish::Version(version));
                }
                Step::Wish(None) => {
                    catalogue.declare(&BTreeMap::from([("m".into(), Wish::Newest)]));
                }
                Step::Unload => {
                    let _ = catalogue.unload("m");
                }
                Step::Wait(seconds) => now += SECOND * u32::try_from(seconds).unwrap(),
            }
            let index = catalogue.index();
            let targets = catalogue.targets();
            let wanted = catalogue.models.get("m").is_some_and(|model| model.wish.is_some());
            if wanted && index.iter().any(|it| it.state == State::Ready) {
                prop_assert!(targets.contains_key("m"), "{index:?}");
            }
            for target in targets.values() {
                let entry = index.iter().find(|it| it.version == Some(target.artifact.version));
                let entry = entry.expect("every target stands in the index");
                prop_assert!(entry.state != State::Unavailable, "{entry:?}");
            }
        }
    }
}
