//! The JSON Schema of the language, `policies/schema.json`, from which an editor completes and
//! checks policy files. It is made from the tables that the parser reads too; with `UPDATE_SCHEMA`
//! in the environment this test writes it.

use std::fs;
use std::path::{Path, PathBuf};

use downbeat_policy::language::{self, Bounds, Key, Shape};
use jsonschema::Validator;
use serde_json::{Map, Value, json};

const DURATION: &str = r"[0-9]+(\.[0-9]+)? *(ns|us|µs|ms|s|min|h)";
const PERCENT: &str = r"[0-9]+(\.[0-9]+)? *%";
const SIZE: &str = r"[0-9]+(\.[0-9]+)? *([kKMGT]?B|[KMGT]iB|[kKMGT]|bytes)";
const CPU_NAME: &str =
    r"(all|performance|efficiency|isolated|smt-first|(node|llc|near-gpu)-[0-9]{1,4})";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Tables that stand in several places are defined once.
#[derive(Default)]
struct Definitions(Map<String, Value>);

impl Definitions {
    /// A reference to this table.
    fn refer(&mut self, name: &str, table: Value) -> Value {
        let known = self.0.iter().find(|(_, known)| **known == table).map(|(name, _)| name.clone());
        let name = known.unwrap_or_else(|| {
            let free = (1..).map(|n| if n == 1 { name.to_owned() } else { format!("{name}-{n}") });
            let name = free.into_iter().find(|name| !self.0.contains_key(name));
            let name = name.expect("some number is free");
            self.0.insert(name.clone(), table);
            name
        });
        json!({ "$ref": format!("#/definitions/{name}") })
    }

    fn table(&mut self, name: &str, keys: &[Key]) -> Value {
        let properties: Map<String, Value> = keys
            .iter()
            .map(|key| {
                let shape = self.shape(key.name, key.shape);
                // Beside a reference nothing counts, so it is wrapped.
                let mut value =
                    if shape.get("$ref").is_some() { json!({ "allOf": [shape] }) } else { shape };
                value["description"] = key.about.into();
                (key.name.to_owned(), value)
            })
            .collect();
        let mut table = json!({
            "type": "object",
            "properties": properties,
            "additionalProperties": false,
        });
        let required: Vec<&str> = keys.iter().filter(|key| key.required).map(|k| k.name).collect();
        if !required.is_empty() {
            table["required"] = json!(required);
        }
        match name {
            "class" => {
                table["anyOf"] = json!([{ "required": ["tier"] }, { "required": ["inherits"] }]);
            }
            "io" => table["dependencies"] = json!({ "level": ["class"] }),
            _ => {}
        }
        if !matches!(name, "class" | "auto") && required.is_empty() {
            table["minProperties"] = 1.into();
        }
        self.refer(name, table)
    }

    fn shape(&mut self, name: &str, shape: Shape) -> Value {
        let text = |pattern: &str| json!({ "type": "string", "pattern": format!("^({pattern})$") });
        match shape {
            Shape::Version => json!({ "const": downbeat_policy::SCHEMA }),
            Shape::Text => json!({ "type": "string", "minLength": 1, "maxLength": 80 }),
            Shape::ClassName => text("[A-Za-z0-9_-]{1,32}"),
            Shape::Words(words) => json!({ "enum": words() }),
            Shape::Flag => json!({ "type": "boolean" }),
            Shape::Integer(low, high) => {
                json!({ "type": "integer", "minimum": low, "maximum": high })
            }
            Shape::Duration(Bounds { .. }) => text(DURATION),
            Shape::Percent(Bounds { .. }) => text(PERCENT),
            Shape::Size => text(&format!("{SIZE}|{PERCENT}|max")),
            Shape::Rate => text(&format!("{SIZE} */s")),
            Shape::Requests => {
                let written = text("[0-9]{1,10} */s");
                json!({ "anyOf": [{ "type": "integer", "minimum": 1 }, written] })
            }
            Shape::CpuTime => text(&format!("{PERCENT}|{DURATION} per {DURATION}|max")),
            Shape::Cpus => {
                let part = format!("!? *([0-9]+( *- *[0-9]+)?|{CPU_NAME}( *& *{CPU_NAME})*)");
                text(&format!(" *{part}( *, *{part})* *"))
            }
            Shape::Device => text("/dev/.+"),
            Shape::Patterns => {
                let one = json!({ "type": "string", "minLength": 1, "maxLength": 1024 });
                or_list(&one)
            }
            Shape::NamedPatterns => or_list(&text(r"[^=*?\[\]\\\s]+(=.+)?")),
            Shape::Table(keys) => self.table(name, keys),
            Shape::Named(keys) => json!({
                "type": "object",
                "propertyNames": { "pattern": "^[A-Za-z0-9_-]{1,32}$" },
                "additionalProperties": self.table(name, keys),
            }),
            Shape::Tables(keys) => {
                let table = self.table(name, keys);
                // A file without rules may say so; alternatives of nothing match nothing.
                let least = usize::from(name == "any");
                json!({ "type": "array", "items": table, "minItems": least })
            }
            Shape::Either(shapes) => {
                let shapes: Vec<Value> = shapes.iter().map(|s| self.shape(name, *s)).collect();
                json!({ "anyOf": shapes })
            }
            Shape::OrList(one) => or_list(&self.shape(name, *one)),
        }
    }
}

fn or_list(one: &Value) -> Value {
    json!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
}

fn schema() -> Value {
    let mut definitions = Definitions::default();
    let file = definitions.table("file", language::FILE);
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "downbeat policy",
        "description": "A file of /etc/downbeat/policy.d. Made by agent/policy/tests/schema.rs.",
        "allOf": [file],
        "definitions": definitions.0,
    })
}

/// The schema as it stands in the repository.
fn validator() -> Validator {
    let text = fs::read_to_string(root().join("policies/schema.json")).expect("the schema");
    let schema = serde_json::from_str(&text).expect("JSON");
    jsonschema::validator_for(&schema).expect("a schema")
}

/// The files of a folder, by name.
fn policies(folder: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let mut files: Vec<(String, String)> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("a text"))
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}", folder.display());
    files
}

/// What the schema says of a file; nothing where it is not TOML.
fn refusals(validator: &Validator, text: &str) -> Option<Vec<String>> {
    let value: Value = toml::from_str(text).ok()?;
    let errors = validator.iter_errors(&value);
    Some(errors.map(|error| format!("{}: {error}", error.instance_path())).collect())
}

#[test]
fn the_schema_is_that_of_the_language() {
    let path = root().join("policies/schema.json");
    let made = format!("{}\n", serde_json::to_string_pretty(&schema()).expect("JSON"));
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&path, &made).expect("a folder that can be written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == made,
        "policies/schema.json is not that of the language; run `UPDATE_SCHEMA=1 cargo test -p \
         downbeat-policy --test schema`"
    );
}

#[test]
fn what_is_valid_fits_the_schema() {
    let validator = validator();
    let folders = [
        root().join("policies"),
        root().join("policies/demo"),
        root().join("policies/examples"),
        root().join("agent/policy/tests/fixtures/valid"),
    ];
    for (name, text) in folders.iter().flat_map(|folder| policies(folder)) {
        let refusals = refusals(&validator, &text).expect("TOML");
        assert!(refusals.is_empty(), "{name}: {}", refusals.join("\n"));
    }
}

/// Fixtures that are wrong in a way that no schema sees: it knows one file, and of a text only its
/// shape.
const BEYOND: [&str; 23] = [
    "auto-unknown-class",
    "auto-without-classes",
    "cpu-burst-above-quota",
    "cpu-burst-without-quota",
    "cpu-idle-with-weight",
    "cpus-backwards",
    "cpus-huge-range",
    "cpus-nothing-left",
    "deadline-range",
    "freeze-of-what-is-waited-for",
    "inherits-ring",
    "inherits-unknown",
    "inherits-what-does-not-fit",
    "match-maps",
    "match-unit",
    "memory-order",
    "pattern-never-matches",
    "rule-unknown-class",
    "sched-budget-for-fifo",
    "sched-nice-for-fifo",
    "sched-nice-for-idle",
    "sched-priority-for-other",
    "target-without-deadline",
];

#[test]
fn what_is_invalid_by_shape_does_not_fit_it() {
    let validator = validator();
    let folder = root().join("agent/policy/tests/fixtures/invalid");
    let passed: Vec<String> = policies(&folder)
        .into_iter()
        .filter(|(_, text)| refusals(&validator, text).is_some_and(|refusals| refusals.is_empty()))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(passed, BEYOND);
}
