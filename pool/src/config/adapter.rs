//! `http`, `stdio`, `oip`, `openai`: how requests reach an external worker.

use toml::de::{DeTable, DeValue};

use super::file::{File, at};
use super::values::{boolean, number, one_of, string};

/// How requests reach an external worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adapter {
    /// A server of HTTP with a path of its own.
    Http(Http),
    /// Bytes to its standard input, bytes from its standard output.
    Stdio(Stdio),
    /// A server of the Open Inference Protocol over REST.
    Oip(Oip),
}

impl Adapter {
    /// Address of a server that someone else runs, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        match self {
            Self::Http(http) => http.url.as_deref(),
            Self::Oip(oip) => oip.url.as_deref(),
            Self::Stdio(_) => None,
        }
    }

    /// First port of a worker's instances; each further instance has the next one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Http(http) => http.port,
            Self::Oip(oip) => oip.port,
            Self::Stdio(_) => None,
        }
    }

    /// The path that answers 200 when the worker is ready.
    #[must_use]
    pub fn health(&self) -> Option<&str> {
        match self {
            Self::Http(http) => http.health.as_deref(),
            Self::Oip(_) => Some("/v2/health/ready"),
            Self::Stdio(_) => None,
        }
    }
}

/// `http = { … }`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http {
    /// `http://host:port`, without a slash at its end.
    pub url: Option<String>,
    /// On 127.0.0.1, of the first instance.
    pub port: Option<u16>,
    /// Path that answers 200 when it is ready; absent: ready when the port takes connections.
    pub health: Option<String>,
    /// Path of a request; POST. Absent where only `/v1/*` is passed on.
    pub path: Option<String>,
    /// What a request's body is.
    pub body: HttpBody,
    /// Media type of the bytes sent.
    pub content_type: Option<String>,
}

/// A request's body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HttpBody {
    /// The first input's bytes as they are.
    #[default]
    Raw,
    /// A form (multipart/form-data) whose field of this name is a file with the first input's
    /// bytes; further inputs are fields of their own names.
    Form(String),
}

/// `stdio = { … }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stdio {
    /// Whether it lives on after an answer. Absent: one process a job, its input ends before its
    /// answer.
    pub kept: Option<StdioFraming>,
}

/// Where a job and an answer end in a process that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdioFraming {
    /// At a newline.
    Lines,
    /// Each has its length before it: 32 bits, little endian.
    Length,
}

/// `oip = { … }`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Oip {
    /// `http://host:port`, without a slash at its end.
    pub url: Option<String>,
    /// On 127.0.0.1, of the first instance.
    pub port: Option<u16>,
    /// The model's name there; absent: the worker's own.
    pub model: Option<String>,
}

/// What the adapters' keys say.
#[derive(Default)]
pub struct Adapters {
    pub adapter: Option<Adapter>,
    pub openai: bool,
}

const KINDS: [&str; 3] = ["http", "stdio", "oip"];

pub fn read(file: &mut File<'_>, table: &DeTable<'_>, at_name: usize) -> Adapters {
    let given: Vec<_> = KINDS.into_iter().filter(|kind| table.contains_key(*kind)).collect();
    if let [first, second, ..] = given[..] {
        let message = format!("both `{first}` and `{second}` are given; keep one of them");
        file.problem(at(table, second, at_name), message);
    }
    let adapter = http(file, table)
        .map(Adapter::Http)
        .or_else(|| stdio(file, table).map(Adapter::Stdio))
        .or_else(|| oip(file, table).map(Adapter::Oip));
    let openai = file.get(table, "", "openai", boolean).unwrap_or_default();
    if openai && !table.contains_key("http") {
        let message = "`openai`: add `http = { port = 8080 }`, where the worker serves /v1/*";
        file.problem(at(table, "openai", at_name), message.into());
    }
    Adapters { adapter, openai }
}

fn http(file: &mut File<'_>, table: &DeTable<'_>) -> Option<Http> {
    const KEYS: [&str; 7] = ["url", "port", "health", "path", "body", "field", "type"];
    let (inner, place) = file.table(table, "http", "`http = { port = 8080, path = \"/run\" }`")?;
    file.only(inner, &KEYS, "`http`");
    let (url, port) = address(file, inner, "http.", place);
    let field = file.get(inner, "http.", "field", text);
    let body = file
        .get(inner, "http.", "body", |value| {
            one_of(value, &[("raw", false), ("form", true)], "values")
        })
        .unwrap_or(field.is_some());
    if !body && field.is_some() {
        let message =
            "`http.field`: only a form has fields; write `body = \"form\"`, or leave it out";
        file.problem(at(inner, "field", place), message.into());
    }
    Some(Http {
        url,
        port,
        health: file.get(inner, "http.", "health", path),
        path: file.get(inner, "http.", "path", path),
        body: if body {
            HttpBody::Form(field.unwrap_or_else(|| "file".into()))
        } else {
            HttpBody::Raw
        },
        content_type: file.get(inner, "http.", "type", media_type),
    })
}

fn stdio(file: &mut File<'_>, table: &DeTable<'_>) -> Option<Stdio> {
    const WANTED: &str = "`stdio = { mode = \"once\" }`";
    let (inner, place) = file.table(table, "stdio", WANTED)?;
    file.only(inner, &["mode", "framing"], "`stdio`");
    let kept = file.get(inner, "stdio.", "mode", |value| {
        one_of(value, &[("once", false), ("kept", true)], "values")
    });
    let framing = file.get(inner, "stdio.", "framing", |value| {
        let known = [("lines", StdioFraming::Lines), ("length", StdioFraming::Length)];
        one_of(value, &known, "values")
    });
    if !inner.contains_key("mode") {
        let message = "`stdio.mode`: missing; write \"once\" (one process a job) or \"kept\"";
        file.problem(place, message.into());
    }
    if kept == Some(false) && inner.contains_key("framing") {
        let message =
            "`stdio.framing`: with mode \"once\" a job ends where its input ends; leave it out";
        file.problem(at(inner, "framing", place), message.into());
    }
    Some(Stdio { kept: (kept == Some(true)).then(|| framing.unwrap_or(StdioFraming::Lines)) })
}

fn oip(file: &mut File<'_>, table: &DeTable<'_>) -> Option<Oip> {
    let (inner, place) = file.table(table, "oip", "`oip = { url = \"http://127.0.0.1:8000\" }`")?;
    file.only(inner, &["url", "port", "model"], "`oip`");
    let (url, port) = address(file, inner, "oip.", place);
    Some(Oip { url, port, model: file.get(inner, "oip.", "model", text) })
}

/// Exactly one of `url` and `port`.
fn address(
    file: &mut File<'_>,
    inner: &DeTable<'_>,
    prefix: &str,
    place: usize,
) -> (Option<String>, Option<u16>) {
    let url_of = file.get(inner, prefix, "url", url);
    let port = file.get(inner, prefix, "port", |v| number(v, 1..=65_535));
    match (inner.contains_key("url"), inner.contains_key("port")) {
        (true, true) => file.problem(
            at(inner, "port", place),
            format!("`{prefix}port`: both `url` and `port` are given; keep one of them"),
        ),
        (false, false) => file.problem(
            place,
            format!(
                "`{}`: neither `port` (of a worker that is started here) nor `url` is given; add one",
                prefix.trim_end_matches('.')
            ),
        ),
        _ => {}
    }
    (url_of, port.and_then(|port| u16::try_from(port).ok()))
}

fn text(value: &DeValue<'_>) -> Result<String, String> {
    match string(value)? {
        "" => Err("is empty".into()),
        text if text.contains(['"', '\r', '\n']) => Err("contains a quote or a line break".into()),
        text => Ok(text.to_owned()),
    }
}

fn path(value: &DeValue<'_>) -> Result<String, String> {
    let path = string(value)?;
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if path.starts_with('/') && plain {
        Ok(path.to_owned())
    } else {
        Err(format!("`{path}` is no path; write it from `/`, without spaces"))
    }
}

fn media_type(value: &DeValue<'_>) -> Result<String, String> {
    let name = string(value)?;
    let plain = name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if name.contains('/') && plain {
        Ok(name.to_owned())
    } else {
        Err(format!("`{name}` is no media type; write one like \"audio/wav\""))
    }
}

fn url(value: &DeValue<'_>) -> Result<String, String> {
    const WANTED: &str = "write one like \"http://127.0.0.1:8000\"";
    let url = string(value)?.trim_end_matches('/');
    let Some(authority) = url.strip_prefix("http://") else {
        return Err(format!("`{url}` is no address that is understood; {WANTED}"));
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().ok()),
        _ => (authority, Some(80)),
    };
    if host.is_empty() || !host.chars().all(plain) || port.is_none_or(|port| port == 0) {
        return Err(format!("`{url}` is no address that is understood; {WANTED}"));
    }
    Ok(url.to_owned())
}
