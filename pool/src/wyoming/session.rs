//! One conversation: which worker a client means, the sound that it sends, and the answers.

use std::time::Duration;

use downbeat_link::Tensor;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tracing::debug;

use super::event::Event;
use super::link::{Fault, Link};
use super::problem::{Problem, Stop};
use super::services::{Part, Service, Wish, choose, info};
use super::sound::{Converter, Format};
use super::spot::{Spotter, highest};
use super::tensors;
use crate::config::WyomingService;
use crate::inference::{Refusal, Request, Response, Terms};
use crate::oip::Models;

/// For workers that declare no deadline: a person waits.
const DEADLINE: Duration = Duration::from_secs(30);

/// Beyond twice as long as it may last, an utterance may take so much longer to come.
const GRACE: Duration = Duration::from_secs(30);

/// Of a voice, in one event.
const CHUNK: Duration = Duration::from_millis(100);

/// What the next stream is for, as the client said before it.
#[derive(Debug, Default)]
enum Asked {
    /// It did not say: for a transcript, where there is a worker for that.
    #[default]
    Nothing,
    Transcript {
        name: Option<String>,
        language: Option<String>,
    },
    Words(Vec<String>),
}

/// The stream of sound that goes on.
#[derive(Debug)]
enum Stream {
    Silent,
    /// Refused: passed over until its end.
    Refused,
    /// Kept whole, for a transcript.
    Utterance {
        to: Box<Listener>,
        samples: Vec<i16>,
    },
    /// Looked at piece by piece, for words.
    Watched(Box<Watched>),
}

/// The worker that a stream is for.
#[derive(Debug)]
struct Listener {
    worker: String,
    service: Service,
    converter: Converter,
    begun: Instant,
}

#[derive(Debug)]
struct Watched {
    to: Listener,
    spotter: Spotter,
    /// The words that the client wants; all of the worker's where empty.
    wanted: Vec<String>,
    begin_ms: u64,
    detected: bool,
}

/// A conversation.
pub struct Session<S> {
    link: Link<S>,
    models: Models,
    client: String,
    program: Option<String>,
    asked: Asked,
    stream: Stream,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// With a client of this name for limits.
    pub fn new(link: Link<S>, models: Models, client: String) -> Self {
        let (asked, stream) = (Asked::Nothing, Stream::Silent);
        Self { link, models, client, program: None, asked, stream }
    }

    /// Until the client leaves, or sends what is no event.
    pub async fn run(mut self) {
        let fault = loop {
            match self.link.next(self.kept(), self.until()).await {
                Ok(Some(event)) => {
                    if let Err(fault) = self.take(event).await {
                        break fault;
                    }
                }
                Ok(None) if matches!(self.stream, Stream::Utterance { .. }) => break Fault::Cut,
                Ok(None) => return,
                Err(fault) => break fault,
            }
        };
        debug!(client = self.client, "Wyoming conversation ended: {fault}");
        let code = match &fault {
            Fault::Malformed(_) | Fault::Cut => "malformed",
            Fault::Slow(_) => "slow",
            Fault::Full => "overloaded",
            Fault::Gone => "cancelled",
            Fault::Io(_) => return,
        };
        // Whoever still listens learns why; whoever does not has no use for it.
        let _ = self.link.send(&Problem::new(code, fault.to_string()).event()).await;
    }

    /// Bytes of the stream that are kept.
    fn kept(&self) -> usize {
        match &self.stream {
            Stream::Utterance { samples, .. } => samples.len() * size_of::<i16>(),
            Stream::Watched(_) | Stream::Silent | Stream::Refused => 0,
        }
    }

    /// When the stream must be over.
    fn until(&self) -> Option<Instant> {
        match &self.stream {
            Stream::Utterance { to, .. } => {
                Some(to.begun + 2 * to.service.declared.longest + GRACE)
            }
            Stream::Watched(_) | Stream::Silent | Stream::Refused => None,
        }
    }

    async fn take(&mut self, event: Event) -> Result<(), Fault> {
        match self.answer(event).await {
            Ok(()) => Ok(()),
            Err(Stop::Problem(problem)) => {
                debug!(client = self.client, "Wyoming: {}", problem.text);
                self.link.send(&problem.event()).await
            }
            Err(Stop::Fault(fault)) => Err(fault),
        }
    }

    async fn answer(&mut self, event: Event) -> Result<(), Stop> {
        let text = |key: &str| event.text(key).map(str::to_owned);
        match event.kind.as_str() {
            "describe" => Ok(self.link.send(&info(&self.models.wyoming())).await?),
            "ping" => {
                let echo = event.data.get("text").cloned().unwrap_or(Value::Null);
                Ok(self.link.send(&Event::new("pong").with("text", echo)).await?)
            }
            "select-program" => {
                self.program = text("name");
                Ok(())
            }
            "transcribe" => {
                self.asked = Asked::Transcript { name: text("name"), language: text("language") };
                Ok(())
            }
            "detect" => {
                self.asked = Asked::Words(names(&event)?);
                Ok(())
            }
            "audio-start" => self.begin(&event),
            "audio-chunk" => {
                // Not every client begins with `audio-start`.
                if matches!(self.stream, Stream::Silent) {
                    self.begin(&event)?;
                }
                let outcome = self.more(&event).await;
                if let Err(Stop::Problem(_)) = outcome {
                    self.stream = Stream::Refused;
                }
                outcome
            }
            "audio-stop" => self.end().await,
            "synthesize" => self.speak(&event).await,
            other => {
                debug!(client = self.client, "Wyoming: `{other}` means nothing here");
                Ok(())
            }
        }
    }

    /// A stream begins.
    fn begin(&mut self, event: &Event) -> Result<(), Stop> {
        // Until all is well.
        self.stream = Stream::Refused;
        let services = self.models.wyoming();
        let part = match &self.asked {
            Asked::Transcript { .. } => Part::Transcribe,
            Asked::Words(_) => Part::Detect,
            Asked::Nothing => {
                let listens = choose(&services, Part::Transcribe, Wish::default()).is_ok();
                if listens { Part::Transcribe } else { Part::Detect }
            }
        };
        let mut wish = Wish { program: self.program.as_deref(), ..Wish::default() };
        match &self.asked {
            Asked::Transcript { name, language } => {
                (wish.name, wish.language) = (name.as_deref(), language.as_deref());
            }
            Asked::Words(words) => wish.words = words,
            Asked::Nothing => {}
        }
        let (worker, service) =
            choose(&services, part, wish).map_err(|why| Problem::new("not-found", why))?;
        let wanted = wish.words.to_vec();
        let format = Format::of(event).map_err(|why| Problem::new("invalid", why))?;
        let rate = service.declared.rate;
        let converter = Converter::new(format, rate).map_err(|why| Problem::new("invalid", why))?;
        let to = Listener {
            worker: worker.to_owned(),
            service: service.clone(),
            converter,
            begun: Instant::now(),
        };
        self.stream = match &service.declared.service {
            WyomingService::Detect { step, .. } => {
                service.check(worker).map_err(|why| Problem::new("unavailable", why))?;
                let spec = self.first_input(worker)?;
                let window = tensors::window(&spec).unwrap_or(rate as usize);
                Stream::Watched(Box::new(Watched {
                    spotter: Spotter::new(rate, window, *step),
                    wanted,
                    begin_ms: event.number("timestamp").unwrap_or(0),
                    detected: false,
                    to,
                }))
            }
            WyomingService::Transcribe | WyomingService::Synthesize => {
                Stream::Utterance { to: Box::new(to), samples: Vec::new() }
            }
        };
        Ok(())
    }

    /// A stream goes on.
    async fn more(&mut self, event: &Event) -> Result<(), Stop> {
        let to = match &mut self.stream {
            Stream::Silent | Stream::Refused => return Ok(()),
            Stream::Utterance { to, .. } => to,
            Stream::Watched(watched) => &mut watched.to,
        };
        let invalid = |why: String| Problem::new("invalid", why);
        let format = Format::of(event).map_err(invalid)?;
        if format != to.converter.format() {
            let was = to.converter.format();
            return Err(invalid(format!("a chunk is {format:?}, and the stream {was:?}")).into());
        }
        match &mut self.stream {
            Stream::Utterance { to, samples } => {
                to.converter.push(&event.payload, samples).map_err(invalid)?;
                let longest = to.service.declared.longest;
                let most = longest.as_secs_f64() * f64::from(to.service.declared.rate);
                if samples.len() as f64 > most {
                    let worker = &to.worker;
                    return Err(Problem::new(
                        "too-large",
                        format!("{worker}: an utterance may last {longest:?} (`wyoming.longest`)"),
                    )
                    .into());
                }
                Ok(())
            }
            Stream::Watched(watched) => {
                let samples = watched.spotter.samples();
                watched.to.converter.push(&event.payload, samples).map_err(invalid)?;
                self.watch().await
            }
            Stream::Silent | Stream::Refused => Ok(()),
        }
    }

    /// A stream ends.
    async fn end(&mut self) -> Result<(), Stop> {
        let failed = |why: String| Problem::new("failed", why);
        match &mut self.stream {
            Stream::Silent | Stream::Refused => {
                self.stream = Stream::Silent;
                Ok(())
            }
            Stream::Watched(watched) => {
                watched.to.converter.finish(watched.spotter.samples()).map_err(failed)?;
                watched.spotter.finish();
                let outcome = self.watch().await;
                let Stream::Watched(watched) = std::mem::replace(&mut self.stream, Stream::Silent)
                else {
                    return outcome;
                };
                outcome?;
                if !watched.detected {
                    self.link.send(&Event::new("not-detected")).await?;
                }
                Ok(())
            }
            Stream::Utterance { .. } => {
                let Stream::Utterance { mut to, mut samples } =
                    std::mem::replace(&mut self.stream, Stream::Silent)
                else {
                    return Ok(());
                };
                self.asked = Asked::Nothing;
                to.converter.finish(&mut samples).map_err(failed)?;
                let spec = self.first_input(&to.worker)?;
                let input = tensors::sound_input(&spec, to.service.declared.rate, &samples);
                let input = input.map_err(|why| failed(format!("{}: {why}", to.worker)))?;
                drop(samples);
                let answer = self.ask(&to.worker, &to.service, input).await?;
                let said = tensors::text_output(&answer.outputs);
                let said = said.map_err(|why| failed(format!("{}: {why}", to.worker)))?;
                let mut transcript = Event::new("transcript").with("text", said);
                if let [language] = &to.service.declared.languages[..] {
                    transcript = transcript.with("language", language.as_str());
                }
                Ok(self.link.send(&transcript).await?)
            }
        }
    }

    /// Has the pieces looked at that are whole.
    async fn watch(&mut self) -> Result<(), Stop> {
        loop {
            let Stream::Watched(watched) = &mut self.stream else { return Ok(()) };
            let Some(piece) = watched.spotter.next_piece() else { return Ok(()) };
            let (worker, service) = (watched.to.worker.clone(), watched.to.service.clone());
            let spec = self.first_input(&worker)?;
            let failed = |why: String| Problem::new("failed", format!("{worker}: {why}"));
            let input = tensors::sound_input(&spec, service.declared.rate, &piece);
            let numbers = match self.refusable(&worker, &service, input.map_err(failed)?).await? {
                Ok(answer) => tensors::numbers_output(&answer.outputs).map_err(failed)?,
                // The next piece has most of this one.
                Err(Refusal::Full { .. } | Refusal::Expired(_)) => continue,
                Err(refusal) => return Err(Problem::of(&worker, &refusal).into()),
            };
            let WyomingService::Detect { words, threshold, .. } = &service.declared.service else {
                return Ok(());
            };
            let Stream::Watched(watched) = &mut self.stream else { return Ok(()) };
            let wanted = if watched.wanted.is_empty() { words } else { &watched.wanted };
            let label = |place: usize| service.labels.get(place);
            let counts = |place| label(place).is_some_and(|label| wanted.contains(label));
            let told = watched.spotter.heard(highest(&numbers, *threshold, counts));
            if let Some(word) = told.and_then(label) {
                watched.detected = true;
                let timestamp = watched.begin_ms + watched.spotter.position_ms();
                let detection = Event::new("detection").with("name", word.as_str());
                self.link.send(&detection.with("timestamp", timestamp)).await?;
            }
        }
    }

    /// Text to speech.
    async fn speak(&mut self, event: &Event) -> Result<(), Stop> {
        let invalid = |why: String| Problem::new("invalid", why);
        let text =
            event.text("text").ok_or_else(|| invalid("`synthesize` has no `text`".into()))?;
        if let Some(format) = event.text("text_format").filter(|format| *format != "text") {
            let why = format!("`text_format` is `{format}`; voices here take `text` alone");
            return Err(invalid(why).into());
        }
        let services = self.models.wyoming();
        let voice = |key: &str| event.data.get("voice").and_then(|it| it.get(key)?.as_str());
        let wish = Wish {
            name: voice("name"),
            language: voice("language"),
            program: self.program.as_deref(),
            ..Wish::default()
        };
        let (worker, service) = choose(&services, Part::Synthesize, wish)
            .map_err(|why| Problem::new("not-found", why))?;
        let failed = |why: String| Problem::new("failed", format!("{worker}: {why}"));
        let spec = self.first_input(worker)?;
        let input = tensors::text_input(&spec, text).map_err(failed)?;
        let answer = self.ask(worker, service, input).await?;
        let sound = tensors::sound_output(&answer.outputs, service.declared.rate);
        let sound = sound.map_err(failed)?;
        let format = sound.format;
        let with_format = |event: Event| {
            let event = event.with("rate", format.rate).with("width", format.width);
            event.with("channels", format.channels)
        };
        let in_chunk = (CHUNK.as_secs_f64() * f64::from(format.rate)) as usize;
        let (size, mut rest) = (in_chunk.max(1) * format.frame(), sound.samples);
        self.link.send(&with_format(Event::new("audio-start")).with("timestamp", 0)).await?;
        let (mut sent, frame) = (0_u64, format.frame() as u64);
        while !rest.is_empty() {
            let payload = rest.split_to(size.min(rest.len()));
            let timestamp = sent / frame * 1000 / u64::from(format.rate);
            sent += payload.len() as u64;
            let chunk = with_format(Event::new("audio-chunk")).with("timestamp", timestamp);
            self.link.send(&Event { payload, ..chunk }).await?;
        }
        let timestamp = sent / frame * 1000 / u64::from(format.rate);
        Ok(self.link.send(&Event::new("audio-stop").with("timestamp", timestamp)).await?)
    }

    fn first_input(&self, worker: &str) -> Result<downbeat_link::TensorSpec, Problem> {
        let metadata = self.models.metadata(worker, None);
        let metadata = metadata.map_err(|refusal| Problem::of(worker, &refusal))?;
        metadata.inputs.into_iter().next().ok_or_else(|| {
            let why = format!("{worker}: pool.d does not say what it takes; declare `inputs`");
            Problem::new("unavailable", why)
        })
    }

    async fn ask(
        &mut self,
        worker: &str,
        service: &Service,
        input: Tensor,
    ) -> Result<Response, Stop> {
        let outcome = self.refusable(worker, service, input).await?;
        outcome.map_err(|refusal| Problem::of(worker, &refusal).into())
    }

    /// One request; given up where the client leaves.
    async fn refusable(
        &mut self,
        worker: &str,
        service: &Service,
        input: Tensor,
    ) -> Result<Result<Response, Refusal>, Fault> {
        let mut terms = Terms::of(self.client.as_str());
        terms.deadline = terms.arrival.checked_add(service.deadline.unwrap_or(DEADLINE));
        let request = Request {
            model: worker.to_owned(),
            version: None,
            id: String::new(),
            inputs: vec![input],
            shared: Vec::new(),
            outputs: Vec::new(),
            terms,
        };
        let models = self.models.clone();
        self.link.during(models.infer(request)).await
    }
}

/// The words that a client wants; all where it names none.
fn names(event: &Event) -> Result<Vec<String>, Problem> {
    let wrong = || Problem::new("invalid", "`names` of `detect` is no list of words");
    match event.data.get("names") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(names)) => {
            names.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
