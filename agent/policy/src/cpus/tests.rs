use proptest::prelude::*;

use super::*;

fn list(text: &str) -> Result<CpuChoice, CpuListError> {
    text.parse()
}

/// On a host with eight CPUs: two nodes, hardware threads N and N+4 of one core.
fn chosen(text: &str) -> Vec<u32> {
    resolve(text).cpus
}

fn resolve(text: &str) -> ChosenCpus {
    let choice = list(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    choice.resolve(&[0, 1, 2, 3, 4, 5, 6, 7], |group| match group {
        CpuGroup::All => Some((0..8).collect()),
        CpuGroup::Performance => Some(vec![0, 1, 4, 5]),
        CpuGroup::Efficiency => Some(vec![2, 3, 6, 7]),
        CpuGroup::SmtFirst => Some(vec![0, 1, 2, 3]),
        CpuGroup::Node(0) | CpuGroup::NearGpu(0) => Some(vec![0, 2, 4, 6]),
        CpuGroup::Node(1) => Some(vec![1, 3, 5, 7]),
        _ => None,
    })
}

#[test]
fn reads_numbers_and_ranges_in_any_order() {
    assert_eq!(chosen("0-3,6"), [0, 1, 2, 3, 6]);
    assert_eq!(chosen(" 6, 1 - 2 ,2,0"), [0, 1, 2, 6]);
    assert_eq!(chosen("all"), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(chosen("6-99"), [6, 7]);
    assert_eq!(chosen("8191"), []);
}

#[test]
fn names_add_take_away_and_meet() {
    assert_eq!(chosen("performance"), [0, 1, 4, 5]);
    assert_eq!(chosen("performance,7"), [0, 1, 4, 5, 7]);
    assert_eq!(chosen("performance & smt-first"), [0, 1]);
    assert_eq!(chosen("performance&node-1,2"), [1, 2, 5]);
    assert_eq!(chosen("!0"), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(chosen("node-0,!0,! 4-5"), [2, 6]);
    assert_eq!(chosen("near-gpu-0,!efficiency"), [0, 4]);
    assert_eq!(chosen("0-3,!performance&smt-first"), [2, 3]);
}

#[test]
fn what_the_host_has_not_is_named() {
    let got = resolve("isolated,1,llc-3&isolated,!isolated");
    assert_eq!(got.cpus, [1]);
    assert_eq!(got.missing, ["isolated", "llc-3"]);
    let got = resolve("7-9,57,llc-3,!8");
    assert_eq!(got.cpus, [7]);
    assert_eq!(got.missing, ["CPU 9", "CPU 57", "llc-3"]);
}

#[test]
fn a_list_that_leaves_nothing_on_any_host_is_refused() {
    for text in [
        "0,!0",
        "0-3,!0-7",
        "!all",
        "3,node-0,!all",
        "node-0&smt-first,!node-0",
        "llc-1,2,!2,!llc-1",
    ] {
        assert_eq!(list(text), Err(CpuListError::NothingLeft), "{text}");
    }
    // On some host a CPU is left.
    for text in
        ["0-1,!0", "all,!0", "performance,!efficiency", "node-0,!node-0&smt-first", "0,node-0,!0"]
    {
        assert!(list(text).is_ok(), "{text}");
    }
}

#[test]
fn refuses_what_is_no_list() {
    for text in
        ["x", "1-", "-1", "1,,2", ",", "1-2-3", "+1", "0x1", "1:2", "٣", "!", "node-", "!!1"]
    {
        assert!(matches!(list(text), Err(CpuListError::Malformed(_))), "{text}");
    }
    for text in ["node", "node-x", "llc-1-2", "Performance", "performance&", "&"] {
        assert!(matches!(list(text), Err(CpuListError::Malformed(_))), "{text}");
    }
    assert_eq!(list("  "), Err(CpuListError::Empty));
    assert_eq!(list("3-1"), Err(CpuListError::Backwards(3, 1)));
    assert_eq!(list("0-8192"), Err(CpuListError::TooHigh("8192".into())));
    assert_eq!(list("node-8192"), Err(CpuListError::TooHigh("8192".into())));
    assert_eq!(
        list("0-99999999999999999999"),
        Err(CpuListError::TooHigh("99999999999999999999".into()))
    );
    for text in ["node-0&1", "0-3&node-0"] {
        assert!(matches!(list(text), Err(CpuListError::NumberInProduct(_))), "{text}");
    }
    let many: Vec<String> = (0..65).map(|n| format!("node-{n}")).collect();
    assert_eq!(list(&many.join(",")), Err(CpuListError::TooManyNames));
    assert_eq!(list(&many.join("&")), Err(CpuListError::TooManyNames));
}

proptest! {
    #[test]
    fn is_written_as_it_is_read(
        text in "(!?([0-9]{1,3}|all|performance|smt-first&node-[0-9]|llc-1|near-gpu-0),){0,6}7",
    ) {
        let read = match list(&text) {
            Err(CpuListError::NothingLeft) => return Ok(()),
            read => read.expect("well formed"),
        };
        prop_assert_eq!(list(&read.to_string()), Ok(read));
    }

    #[test]
    fn numbers_are_written_as_they_are_read(
        cpus in proptest::collection::btree_set(0..=HIGHEST_CPU, 1..200),
    ) {
        let written: Vec<String> = cpus.iter().map(u32::to_string).collect();
        let read = list(&written.join(",")).expect("numbers");
        prop_assert_eq!(&read.with.numbers, &cpus.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(list(&read.to_string()), Ok(read));
    }

    #[test]
    fn no_text_panics(text in "[0-9, !&-]{0,30}|\\PC{0,20}") {
        if let Ok(choice) = list(&text) {
            let got = choice.resolve(&[0, 1, 2], |_| Some(vec![1, 5]));
            prop_assert!(got.cpus.is_sorted_by(|a, b| a < b));
            prop_assert!(got.cpus.iter().all(|cpu| *cpu < 3));
        }
    }
}
