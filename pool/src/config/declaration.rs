//! `[worker.NAME]`: one table to one [`WorkerConfig`].

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::adapter::{self, Adapters};
use super::file::{File, at};
use super::values::{
    self, command, deadline, engine, env, folder, idle, media, model, number, restart, specs,
    worker_name,
};
use super::{
    Adapter, DEFAULT_IDLE, Found, Instances, Program, WorkerConfig, WyomingService, placement,
    wyoming,
};

const TOP_KEYS: [&str; 2] = ["schema", "worker"];

const WORKER_KEYS: [&str; 27] = [
    "model",
    "command",
    "http",
    "stdio",
    "oip",
    "openai",
    "wyoming",
    "inputs",
    "outputs",
    "engine",
    "instances",
    "media",
    "cheaper",
    "batch",
    "deadline",
    "idle",
    "threads",
    "cpus",
    "numa",
    "gpu",
    "memory",
    "network",
    "sandbox",
    "user",
    "env",
    "dir",
    "restart",
];

/// Most processes of one worker.
const MAX_INSTANCES: u64 = 64;

/// Most requests in one batch.
const MAX_BATCH: u64 = 1024;

impl File<'_> {
    /// The file's workers, and the names of all that it declares, also of those with problems.
    pub fn workers(&mut self) -> (Vec<Found>, BTreeSet<String>) {
        let (mut found, mut names) = (Vec::new(), BTreeSet::new());
        let source = self.source;
        let (table, errors) = DeTable::parse_recoverable(&source.text);
        for error in &errors {
            self.problem(error.span().map_or(0, |span| span.start), error.message().to_owned());
        }
        if !errors.is_empty() {
            return (found, names);
        }
        let table = table.get_ref();
        self.only(table, &TOP_KEYS, "a pool file");
        if let Some(value) = table.get("schema")
            && value.get_ref().as_integer().is_none_or(|n| n.as_str() != "1")
        {
            self.problem(
                value.span().start,
                "`schema`: this version reads schema 1 only; write `schema = 1`".into(),
            );
        }
        if let Some(value) = table.get("worker") {
            let DeValue::Table(workers) = value.get_ref() else {
                self.wrong_type("worker", "tables `[worker.NAME]`", value);
                return (found, names);
            };
            for (name, value) in workers {
                names.insert(name.get_ref().to_string());
                found.extend(self.worker(name.get_ref(), name.span().start, value));
            }
        }
        (found, names)
    }

    fn worker(
        &mut self,
        name: &str,
        at_name: usize,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<Found> {
        let before = self.count();
        if let Err(message) = worker_name(name) {
            self.problem(at_name, message);
        }
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong_type(
                &format!("worker.{name}"),
                &format!("a table `[worker.{name}]`"),
                value,
            );
            return None;
        };
        self.only(table, &WORKER_KEYS, "a worker");
        let adapters = adapter::read(self, table, at_name);
        let program = self.program(name, at_name, table, &adapters, before);
        let built_in = program.as_ref().is_none_or(Program::is_built_in);
        let placement = placement::read(self, table, built_in);
        let config = WorkerConfig {
            name: name.to_owned(),
            inputs: self.get(table, "", "inputs", specs).unwrap_or_default(),
            outputs: self.get(table, "", "outputs", specs).unwrap_or_default(),
            engine: self.get(table, "", "engine", engine).unwrap_or_default(),
            instances: self.instances(table),
            media: self.get(table, "", "media", media),
            cheaper: self.get(table, "", "cheaper", |v| values::string(v).map(str::to_owned)),
            batch: self.get(table, "", "batch", |v| number(v, 1..=MAX_BATCH)).unwrap_or(1) as usize,
            deadline: self.get(table, "", "deadline", deadline),
            idle: self.get(table, "", "idle", idle).unwrap_or(DEFAULT_IDLE),
            placement,
            env: self.get(table, "", "env", env).unwrap_or_default(),
            dir: self.get(table, "", "dir", folder),
            restart: self.get(table, "", "restart", restart).unwrap_or_default(),
            program: program?,
            adapter: adapters.adapter,
            openai: adapters.openai,
            wyoming: wyoming::read(self, table),
        };
        self.fits(&config, table, at_name);
        (self.count() == before).then(|| Found {
            config,
            at: at_name,
            cheaper_at: at(table, "cheaper", at_name),
        })
    }

    /// What it runs: exactly one of `model`, `command` and an address elsewhere.
    fn program(
        &mut self,
        name: &str,
        at_name: usize,
        table: &DeTable<'_>,
        adapters: &Adapters,
        before: usize,
    ) -> Option<Program> {
        let by_model = self.get(table, "", "model", model);
        let by_command = self.get(table, "", "command", command);
        let (model, command) = (table.contains_key("model"), table.contains_key("command"));
        let elsewhere = adapters.adapter.as_ref().is_some_and(|it| it.url().is_some());
        match (model, command) {
            (true, true) => {
                let message =
                    format!("[worker.{name}] has both `model` and `command`; keep one of them");
                self.problem(at_name, message);
                None
            }
            (false, false) if elsewhere => Some(Program::Elsewhere),
            // A misspelt key explains this already.
            (false, false) if self.count() == before => {
                let message = format!(
                    "[worker.{name}] runs nothing: add `model = \"denoise\"` or \
                     `command = [\"PROGRAM\", \"ARGUMENT\"]`"
                );
                self.problem(at_name, message);
                None
            }
            _ => by_model.or(by_command),
        }
    }

    fn instances(&mut self, table: &DeTable<'_>) -> Instances {
        const WANTED: &str = "a number, or a table like `{ min = 1, max = 4, spare = 1 }`";
        let default = Instances::default();
        let Some(value) = table.get("instances") else {
            return default;
        };
        let inner = match value.get_ref() {
            DeValue::Integer(_) => {
                let count = self.get(table, "", "instances", |v| number(v, 1..=MAX_INSTANCES));
                let count = count.unwrap_or(1) as usize;
                return Instances { min: count, max: count, spare: 0 };
            }
            DeValue::Table(inner) => inner,
            _ => {
                self.wrong_type("instances", WANTED, value);
                return default;
            }
        };
        self.only(inner, &["min", "max", "spare"], "`instances`");
        let mut read = |key, least| {
            self.get(inner, "instances.", key, |v| number(v, least..=MAX_INSTANCES))
                .map(|n| n as usize)
        };
        let (min, max, spare) = (read("min", 0), read("max", 1), read("spare", 0));
        let min = min.unwrap_or(1);
        let max = max.unwrap_or(min.max(1));
        let spare = spare.unwrap_or(0);
        if min > max || spare > max {
            let (key, is) = if min > max { ("min", min) } else { ("spare", spare) };
            self.problem(
                at(inner, key, value.span().start),
                format!("`instances.{key}`: {is} is more than `max`, {max}; raise `max`"),
            );
            return default;
        }
        Instances { min, max, spare }
    }

    /// What single keys cannot tell.
    fn fits(&mut self, config: &WorkerConfig, table: &DeTable<'_>, at_name: usize) {
        let has = |key: &str| table.contains_key(key);
        let mut say = |key: &str, message: &str| {
            self.problem(at(table, key, at_name), format!("`{key}`: {message}"));
        };
        let store = matches!(config.program, Program::Model(_));
        if has("engine") && !store {
            say("engine", "only models of the store have one; leave it out");
        }
        let detects = config
            .wyoming
            .as_ref()
            .is_some_and(|wyoming| matches!(wyoming.service, WyomingService::Detect { .. }));
        if detects && !store {
            say("wyoming", "\"detect\" needs the labels of a model of the store: add `model`");
        }
        if config.program == Program::Denoise && has("wyoming") {
            say("wyoming", "`denoise` has no part in a conversation; leave it out");
        }
        let Instances { min, max, .. } = config.instances;
        if config.program == Program::Denoise && min != max {
            say(
                "instances",
                "streams connect to each of `denoise`, so their number is fixed; write it alone, 1 \
                 or more",
            );
        }
        if config.program.is_built_in() {
            for key in ["http", "stdio", "oip", "openai", "inputs", "outputs"] {
                if has(key) {
                    say(key, "is for a `command`; a built-in worker is reached without it");
                }
            }
        } else {
            if config.adapter.is_none() {
                for key in ["wyoming", "inputs", "outputs", "batch", "cheaper"] {
                    if has(key) {
                        say(key, "the worker takes no requests: add `http`, `stdio` or `oip`");
                    }
                }
            }
            if config.instances.min == 0 && config.adapter.is_none() {
                say(
                    "instances",
                    "no request can start it: add `http`, `stdio` or `oip`, or raise `min` to 1",
                );
            }
        }
        if config.program == Program::Elsewhere {
            for key in [
                "instances",
                "threads",
                "cpus",
                "numa",
                "gpu",
                "memory",
                "sandbox",
                "user",
                "env",
                "dir",
                "restart",
                "idle",
                "network",
            ] {
                if has(key) {
                    say(
                        key,
                        "nothing is started here, so it has no effect; leave it out, or add `command`",
                    );
                }
            }
        }
        if let (Program::Command(words), Some(Adapter::Http(http))) =
            (&config.program, &config.adapter)
            && http.port.is_some()
            && config.instances.max > 1
            && !words.iter().any(|word| word.contains("{port}"))
        {
            say(
                "http",
                "with several instances each needs a port of its own; write `{port}` where `command` takes it",
            );
        }
    }
}
