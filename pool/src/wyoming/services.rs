//! What the workers of pool.d do for Wyoming clients: what `info` says, and which of them is meant.
//! Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::event::Event;
use crate::config::{Wyoming, WyomingService};

/// Workers by their names.
pub type Services = BTreeMap<String, Service>;

/// A worker with a part in conversations.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// As declared.
    pub declared: Wyoming,
    /// Of its requests; absent where none is declared.
    pub deadline: Option<Duration>,
    /// What its model's outputs mean; empty where it has no labels.
    pub labels: Arc<[String]>,
    /// Whether it may be used: it runs, or comes up.
    pub installed: bool,
    /// For people.
    pub description: String,
}

/// What is wanted of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Speech to text.
    Transcribe,
    /// Text to speech.
    Synthesize,
    /// Words in a stream.
    Detect,
}

impl Part {
    fn of(service: &WyomingService) -> Self {
        match service {
            WyomingService::Transcribe => Self::Transcribe,
            WyomingService::Synthesize => Self::Synthesize,
            WyomingService::Detect { .. } => Self::Detect,
        }
    }

    /// As in pool.d.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Transcribe => "transcribe",
            Self::Synthesize => "synthesize",
            Self::Detect => "detect",
        }
    }
}

impl Service {
    /// Its words, for a detector.
    #[must_use]
    pub fn words(&self) -> &[String] {
        match &self.declared.service {
            WyomingService::Detect { words, .. } => words,
            WyomingService::Transcribe | WyomingService::Synthesize => &[],
        }
    }

    /// Why it cannot do what is declared of it, once its model is known.
    ///
    /// # Errors
    /// A word that its model does not tell.
    pub fn check(&self, name: &str) -> Result<(), String> {
        let missing = self.words().iter().find(|word| !self.labels.contains(word));
        match missing {
            None => Ok(()),
            Some(word) => Err(format!(
                "`{word}` in `wyoming.words` of [worker.{name}] is no label of its model; those are \
                 {}",
                self.labels.join(", ")
            )),
        }
    }
}

/// Name of the one program that all workers are models of.
const PROGRAM: &str = "downbeat";

/// The answer to `describe`.
#[must_use]
pub fn info(services: &Services) -> Event {
    let part = |part: Part| services.iter().filter(move |(_, it)| part.is(it));
    let model = |(name, service): (&String, &Service)| {
        artifact(name, &service.description, service.installed, &service.declared.languages)
    };
    let words = part(Part::Detect).flat_map(|(name, service)| {
        let languages = &service.declared.languages;
        service.words().iter().map(move |word| {
            let told = format!("heard by {name}");
            let mut model = artifact(word, &told, service.installed, languages);
            model["phrase"] = json!(word);
            model
        })
    });
    let program = |models: Vec<Value>, key: &str, more: Value| -> Value {
        if models.is_empty() {
            return json!([]);
        }
        let installed = models.iter().any(|model| model["installed"] == true);
        let mut program = artifact(PROGRAM, "downbeat's worker pool", installed, &[]);
        if let (Value::Object(program), Value::Object(more)) = (&mut program, more) {
            program.remove("languages");
            program.insert(key.into(), models.into());
            program.extend(more);
        }
        json!([program])
    };
    let asr = json!({
        "supports_transcript_streaming": false,
        // A worker gets the utterance that the client cuts out.
        "requires_external_vad": true,
    });
    let tts = json!({ "supports_synthesize_streaming": false });
    Event::new("info")
        .with("asr", program(part(Part::Transcribe).map(model).collect(), "models", asr))
        .with("tts", program(part(Part::Synthesize).map(model).collect(), "voices", tts))
        .with("wake", program(words.collect(), "models", Value::Object(Map::new())))
        .with("handle", json!([]))
        .with("intent", json!([]))
        .with("mic", json!([]))
        .with("snd", json!([]))
}

fn artifact(name: &str, description: &str, installed: bool, languages: &[String]) -> Value {
    json!({
        "name": name,
        "description": description,
        "attribution": { "name": "pool.d", "url": "" },
        "installed": installed,
        "version": null,
        "languages": languages,
    })
}

/// What a client says of the worker that it means.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// Its name.
    pub name: Option<&'a str>,
    /// Its language.
    pub language: Option<&'a str>,
    /// Words that it should know.
    pub words: &'a [String],
    /// The program that was selected for the connection.
    pub program: Option<&'a str>,
}

/// The worker that a client means: the one of that name, else the one that was selected, else the
/// first that fits; those that run before those that do not.
///
/// # Errors
/// Why there is none, naming those that there are.
pub fn choose<'a>(
    services: &'a Services,
    part: Part,
    wish: Wish<'_>,
) -> Result<(&'a str, &'a Service), String> {
    let all: Vec<_> = services.iter().filter(|(_, service)| part.is(service)).collect();
    if all.is_empty() {
        return Err(format!(
            "no worker of pool.d does this; one that does declares `wyoming = {{ service = \"{}\", \
             languages = [\"en\"] }}`",
            part.name()
        ));
    }
    let names = |all: &[(&String, &Service)]| {
        all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    };
    if let Some(wanted) = wish.name {
        let found = all.iter().find(|(name, _)| *name == wanted);
        let found = found.map(|(name, service)| (name.as_str(), *service));
        return found.ok_or_else(|| {
            format!("no worker `{wanted}` does this; those that do: {}", names(&all))
        });
    }
    let fits = |service: &Service| {
        let language = wish.language.is_none_or(|wanted| {
            service.declared.languages.iter().any(|known| is_language(wanted, known))
        });
        language && wish.words.iter().all(|word| service.words().contains(word))
    };
    let fitting: Vec<_> = all.iter().filter(|(_, service)| fits(service)).collect();
    let selected = |(name, _): &&&(&String, &Service)| wish.program == Some(name.as_str());
    let installed = |(_, service): &&&(&String, &Service)| service.installed;
    let found = fitting.iter().find(|it| selected(it));
    let found = found.or_else(|| fitting.iter().find(|it| installed(it)));
    let found = found.or(fitting.first()).map(|(name, service)| (name.as_str(), *service));
    found.ok_or_else(|| match wish.language {
        Some(language) if wish.words.is_empty() => {
            let known = all.iter().flat_map(|(_, service)| &service.declared.languages);
            let known: Vec<_> = known.map(String::as_str).collect();
            format!("no worker has the language `{language}`; there are {}", known.join(", "))
        }
        _ => {
            let known = all.iter().flat_map(|(_, service)| service.words());
            let known: Vec<_> = known.map(String::as_str).collect();
            let wanted = wish.words.join(", ");
            format!("no worker listens for {wanted}; there are {}", known.join(", "))
        }
    })
}

impl Part {
    fn is(self, service: &Service) -> bool {
        Self::of(&service.declared.service) == self
    }
}

/// Whether `known` serves who wants `wanted`: the same, or one of them without a region.
fn is_language(wanted: &str, known: &str) -> bool {
    fn parts(tag: &str) -> impl Iterator<Item = &str> {
        tag.split(['-', '_'])
    }
    parts(wanted).zip(parts(known)).all(|(a, b)| a.eq_ignore_ascii_case(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(service: WyomingService, languages: &[&str]) -> Service {
        let languages = languages.iter().map(|it| (*it).to_owned()).collect();
        Service {
            declared: Wyoming {
                service,
                languages,
                rate: 16_000,
                longest: Duration::from_secs(60),
            },
            deadline: None,
            labels: ["go", "stop", "other"].map(String::from).into(),
            installed: true,
            description: "x".into(),
        }
    }

    fn detect(words: &[&str]) -> WyomingService {
        WyomingService::Detect {
            words: words.iter().map(|it| (*it).to_owned()).collect(),
            threshold: 800,
            step: Duration::from_millis(250),
        }
    }

    fn services() -> Services {
        [
            ("a-english", service(WyomingService::Transcribe, &["en"])),
            ("b-swiss", service(WyomingService::Transcribe, &["de-CH"])),
            (
                "c-late",
                Service { installed: false, ..service(WyomingService::Transcribe, &["fr"]) },
            ),
            ("d-french", service(WyomingService::Transcribe, &["fr-FR"])),
            ("words", service(detect(&["go", "stop"]), &["en"])),
        ]
        .map(|(name, service)| (name.to_owned(), service))
        .into()
    }

    fn chosen(wish: Wish<'_>) -> Result<String, String> {
        choose(&services(), Part::Transcribe, wish).map(|(name, _)| name.to_owned())
    }

    #[test]
    fn a_client_gets_the_worker_that_it_means() {
        let language = |language| Wish { language: Some(language), ..Wish::default() };
        assert_eq!(chosen(Wish::default()).unwrap(), "a-english");
        assert_eq!(chosen(language("en_US")).unwrap(), "a-english");
        assert_eq!(chosen(language("DE")).unwrap(), "b-swiss");
        assert_eq!(chosen(language("fr-FR")).unwrap(), "d-french", "the first one is down");
        let named = Wish { name: Some("c-late"), ..Wish::default() };
        assert_eq!(chosen(named).unwrap(), "c-late");
        let selected = Wish { program: Some("b-swiss"), ..Wish::default() };
        assert_eq!(chosen(selected).unwrap(), "b-swiss");
        let elsewhere = Wish { program: Some("b-swiss"), ..language("en") };
        assert_eq!(chosen(elsewhere).unwrap(), "a-english");
    }

    #[test]
    fn who_means_none_is_told_what_there_is() {
        let error = chosen(Wish { language: Some("it"), ..Wish::default() }).unwrap_err();
        assert_eq!(error, "no worker has the language `it`; there are en, de-CH, fr, fr-FR");
        let error = chosen(Wish { name: Some("words"), ..Wish::default() }).unwrap_err();
        assert!(error.ends_with("those that do: a-english, b-swiss, c-late, d-french"), "{error}");
        let error = choose(&services(), Part::Synthesize, Wish::default()).unwrap_err();
        assert!(error.contains("service = \"synthesize\""), "{error}");
        let words = ["go".to_owned(), "left".to_owned()];
        let wish = Wish { words: &words, ..Wish::default() };
        let error = choose(&services(), Part::Detect, wish).unwrap_err();
        assert_eq!(error, "no worker listens for go, left; there are go, stop");
    }

    #[test]
    fn a_word_that_no_model_tells_is_found_out() {
        assert_eq!(service(detect(&["go"]), &["en"]).check("w"), Ok(()));
        let error = service(detect(&["go", "left"]), &["en"]).check("w").unwrap_err();
        assert!(
            error.starts_with("`left` in `wyoming.words` of [worker.w] is no label"),
            "{error}"
        );
        assert!(error.ends_with("go, stop, other"), "{error}");
    }

    #[test]
    fn what_there_is_is_described_by_its_part() {
        let info = info(&services()).data;
        let names = |list: &Value| -> Vec<String> {
            let list = list.as_array().unwrap().iter();
            list.map(|it| it["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(
            names(&info["asr"][0]["models"]),
            ["a-english", "b-swiss", "c-late", "d-french"]
        );
        assert_eq!(info["asr"][0]["models"][1]["languages"], json!(["de-CH"]));
        assert_eq!(info["asr"][0]["models"][2]["installed"], false);
        assert_eq!(info["tts"], json!([]));
        assert_eq!(names(&info["wake"][0]["models"]), ["go", "stop"]);
    }
}
