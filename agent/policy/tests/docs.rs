//! The tables of docs/policy.md are those of the language; with `UPDATE_DOCS` in the environment this
//! test writes them.

use std::fs;
use std::path::Path;

use downbeat_policy::language::{self, Bounds, Key, Shape};

/// Tables of keys by the name that docs/policy.md has for them.
const TABLES: [(&str, &[Key]); 14] = [
    ("FILE", language::FILE),
    ("CLASS", language::CLASS),
    ("SCHED", language::SCHED),
    ("CPU", language::CPU),
    ("UCLAMP", language::UCLAMP),
    ("MEMORY", language::MEMORY),
    ("IO", language::IO),
    ("IO_MAX", language::IO_MAX),
    ("GPU", language::GPU),
    ("TARGET", language::TARGET),
    ("RULE", language::RULE),
    ("MATCHERS", language::MATCHERS),
    ("MATCH", language::MATCH),
    ("AUTO", language::AUTO),
];

fn words(shape: Shape) -> String {
    let quoted = |words: Vec<&str>| {
        let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
        words.join(", ")
    };
    match shape {
        Shape::Version => format!("{}", downbeat_policy::SCHEMA),
        Shape::Text => "text".into(),
        Shape::ClassName => "name of a class".into(),
        Shape::Words(of) => quoted(of()),
        Shape::Flag => "`true`, `false`".into(),
        Shape::Integer(low, high) if (low, high) == (i32::MIN.into(), i32::MAX.into()) => {
            "whole number".into()
        }
        Shape::Integer(low, high) => format!("{low} to {high}"),
        Shape::Duration(Bounds { low, high }) => format!("{low:?} to {high:?}"),
        Shape::Percent(Bounds { low, high }) => format!("{low} to {high}"),
        Shape::Size => "size, percentage of the memory, `max`".into(),
        Shape::Rate => "bytes per second".into(),
        Shape::Requests => "requests per second".into(),
        Shape::CpuTime => "CPU time".into(),
        Shape::Cpus => "CPUs".into(),
        Shape::Device => "path below `/dev`".into(),
        Shape::Patterns => "pattern or list".into(),
        Shape::NamedPatterns => "`NAME`, `NAME=PATTERN` or list".into(),
        Shape::Table(_) => "table".into(),
        Shape::Named(_) => "tables by name".into(),
        Shape::Tables(_) => "list of tables".into(),
        Shape::Either(shapes) => {
            let shapes: Vec<String> = shapes.iter().map(|shape| words(*shape)).collect();
            shapes.join(", ")
        }
        Shape::OrList(shape) => format!("{}, or list", words(*shape)),
    }
}

fn table(names: &str) -> String {
    let mut table = String::from("| key | value | meaning |\n| --- | --- | --- |\n");
    let several = names.contains(' ');
    for name in names.split(' ') {
        let (_, keys) = TABLES.iter().find(|(of, _)| *of == name).expect("a table");
        for key in *keys {
            let inside = match name {
                "UCLAMP" => "uclamp.",
                "IO_MAX" => "max.",
                _ if several && name == "GPU" => "gpu.",
                _ if several && name == "TARGET" => "target.",
                _ => "",
            };
            table +=
                &format!("| `{inside}{}` | {} | {} |\n", key.name, words(key.shape), key.about);
        }
    }
    table
}

#[test]
fn the_tables_are_those_of_the_language() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.md");
    let found = fs::read_to_string(&path).expect("the page");
    let mut made = String::new();
    let mut rest = found.as_str();
    let mut tables = 0;
    while let Some((before, after)) = rest.split_once("<!-- keys: ") {
        let (names, after) = after.split_once(" -->").expect("an end of the comment");
        let (_, after) = after.split_once("<!-- end -->").expect("an end of the table");
        made += &format!("{before}<!-- keys: {names} -->\n{}<!-- end -->", table(names));
        rest = after;
        tables += 1;
    }
    made += rest;
    assert_eq!(tables, 10);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &made).expect("a folder that can be written");
    }
    let found = fs::read_to_string(&path).expect("the page");
    assert!(
        found == made,
        "docs/policy.md is not that of the language; run `UPDATE_DOCS=1 cargo test -p \
         downbeat-policy --test docs`"
    );
}

/// The example of the page is a good one.
#[test]
fn the_example_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.md");
    let page = fs::read_to_string(&path).expect("the page");
    let (_, after) = page.split_once("```toml\n").expect("an example");
    let (text, _) = after.split_once("```").expect("its end");
    let source = downbeat_policy::Source { path: "policy.md".into(), text: text.into() };
    let set = downbeat_policy::PolicySet::parse(&[source]).expect("a good policy");
    assert_eq!((set.classes.len(), set.rules.len()), (2, 1));
}
