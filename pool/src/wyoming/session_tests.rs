use std::sync::Arc;

use downbeat_link::{DataType, TensorSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::super::event::Decoder;
use super::super::link::{Budget, Patience};
use super::*;
use crate::config::Wyoming;
use crate::dispatch::Dispatcher;
use crate::inference::Metadata;
use crate::oip::Backend;
use crate::store::Store;
use crate::view::{Kind, Model, Standing, View};

/// A client's end, and what came over it.
struct Client {
    stream: DuplexStream,
    decoder: Decoder,
}

impl Client {
    async fn send(&mut self, event: Event) {
        self.raw(&event.encode()).await;
    }

    async fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next event; nothing at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.decoder.take().unwrap() {
                return Some(event);
            }
            if self.stream.read_buf(&mut self.decoder.buffer).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// The next event, which is an error of this code; gives its text.
    async fn refused(&mut self, code: &str) -> String {
        let event = self.next().await.expect("an event");
        assert_eq!((event.kind.as_str(), event.text("code")), ("error", Some(code)), "{event:?}");
        event.text("text").unwrap().to_owned()
    }
}

/// A conversation over workers that are declared and never run.
fn conversation(patience: Patience) -> Client {
    let store = Store::new(std::path::Path::new("/no/models"));
    let (view, dispatcher) = (View::default(), Dispatcher::new(Default::default()));
    let spec =
        |datatype, shape: &[i64]| TensorSpec { name: "x".into(), datatype, shape: shape.to_vec() };
    let detect = WyomingService::Detect {
        words: vec!["go".into()],
        threshold: 800,
        step: Duration::from_millis(250),
    };
    for (name, service, datatype) in [
        ("ears", WyomingService::Transcribe, DataType::Bytes),
        ("voice", WyomingService::Synthesize, DataType::Bytes),
        ("words", detect, DataType::Int16),
    ] {
        let metadata = Metadata {
            name: name.into(),
            versions: vec!["1".into()],
            platform: "test".into(),
            inputs: vec![spec(datatype, &[-1])],
            outputs: vec![spec(DataType::Bytes, &[1])],
            max_rows: None,
            sound: None,
        };
        let standing = Standing::Down("it is only declared".into());
        let kind = Kind::Declared { stored: None };
        let model = Model { standing, metadata: Some(Arc::new(metadata)), kind, deadline: None };
        let declared = Wyoming {
            service,
            languages: vec!["en".into()],
            rate: 16_000,
            longest: Duration::from_secs(1),
        };
        let service = Service {
            declared,
            deadline: None,
            labels: Arc::from(["go".to_owned()]),
            installed: false,
            description: String::new(),
        };
        view.lock().models.insert(name.into(), model);
        view.lock().wyoming.insert(name.into(), service);
    }
    let models = Models::new(Backend::new(view, dispatcher, store));
    let (stream, server) = duplex(1 << 16);
    let link = Link::new(server, patience, &Budget::default());
    tokio::spawn(Session::new(link, models, "test".into()).run());
    Client { stream, decoder: Decoder::default() }
}

fn format(kind: &str) -> Event {
    Event::new(kind).with("rate", 16_000).with("width", 2).with("channels", 1)
}

fn chunk(bytes: usize) -> Event {
    Event { payload: vec![0; bytes].into(), ..format("audio-chunk") }
}

#[tokio::test]
async fn what_is_asked_is_answered_and_what_means_nothing_is_passed_over() {
    let mut client = conversation(Patience::default());
    client.send(Event::new("ping").with("text", "are you there")).await;
    let pong = client.next().await.unwrap();
    assert_eq!((pong.kind.as_str(), pong.text("text")), ("pong", Some("are you there")));
    client.send(Event::new("run-satellite")).await;
    client.send(Event::new("describe")).await;
    let info = client.next().await.unwrap();
    assert_eq!(info.kind, "info");
    assert_eq!(info.data["tts"][0]["voices"][0]["name"], "voice");
}

#[tokio::test]
async fn a_worker_that_is_down_is_told_and_the_conversation_goes_on() {
    let mut client = conversation(Patience::default());
    for _ in 0..2 {
        client.send(Event::new("transcribe")).await;
        client.send(format("audio-start")).await;
        client.send(chunk(3200)).await;
        client.send(Event::new("audio-stop")).await;
        let why = client.refused("unavailable").await;
        assert_eq!(why, "ears: model `ears`: it is only declared");
    }
    client.send(Event::new("synthesize").with("text", "hello")).await;
    assert!(client.refused("unavailable").await.starts_with("voice: "));
    client.send(Event::new("detect")).await;
    client.send(chunk(40_000)).await;
    assert!(client.refused("unavailable").await.starts_with("words: "));
}

#[tokio::test]
async fn a_refused_stream_is_refused_once() {
    let mut client = conversation(Patience::default());
    for (start, code, wanted) in [
        (format("audio-start").with("rate", 7), "invalid", "`rate` of audio-start is 7"),
        (format("audio-start").with("width", "x"), "invalid", "`width` of audio-start is \"x\""),
    ] {
        client.send(start).await;
        client.send(chunk(3200)).await;
        client.send(chunk(3200)).await;
        client.send(Event::new("audio-stop")).await;
        let why = client.refused(code).await;
        assert!(why.starts_with(wanted), "{why}");
    }
    for (asked, wanted) in [
        (Event::new("transcribe").with("name", "nobody"), "no worker `nobody`"),
        (Event::new("transcribe").with("language", "it"), "no worker has the language `it`"),
        (
            Event::new("detect").with("names", vec!["stop".to_owned()]),
            "no worker listens for stop; there are go",
        ),
    ] {
        client.send(asked).await;
        client.send(format("audio-start")).await;
        client.send(chunk(3200)).await;
        client.send(Event::new("audio-stop")).await;
        let why = client.refused("not-found").await;
        assert!(why.starts_with(wanted), "{why}");
    }
    client.send(Event::new("detect").with("names", "go")).await;
    assert!(client.refused("invalid").await.contains("no list of words"));
    client.send(Event::new("synthesize")).await;
    assert!(client.refused("invalid").await.contains("no `text`"));
    let ssml = Event::new("synthesize").with("text", "<p/>").with("text_format", "ssml");
    client.send(ssml).await;
    assert!(client.refused("invalid").await.contains("`text` alone"));
}

#[tokio::test]
async fn an_utterance_has_an_end_and_one_format() {
    let mut client = conversation(Patience::default());
    client.send(Event::new("transcribe")).await;
    client.send(format("audio-start")).await;
    client.send(chunk(16_000)).await;
    client.send(chunk(16_002)).await;
    client.send(chunk(16_000)).await;
    client.send(Event::new("audio-stop")).await;
    let why = client.refused("too-large").await;
    assert!(why.starts_with("ears: an utterance may last 1s"), "{why}");
    client.send(format("audio-start")).await;
    client.send(chunk(3)).await;
    assert!(client.refused("invalid").await.contains("no whole number of samples"));
    client.send(Event::new("audio-stop")).await;
    client.send(format("audio-start")).await;
    client.send(chunk(2).with("rate", 8_000)).await;
    assert!(client.refused("invalid").await.contains("rate: 8000"));
}

#[tokio::test]
async fn what_is_no_event_ends_the_conversation_with_a_reason() {
    for (sent, wanted) in [
        ("GET / HTTP/1.1\r\n\r\n", "no JSON object"),
        ("{\"type\":\"audio-chunk\",\"payload_length\":9999999}\n", "at most 1048576"),
    ] {
        let mut client = conversation(Patience::default());
        client.raw(sent.as_bytes()).await;
        let why = client.refused("malformed").await;
        assert!(why.contains(wanted), "{why}");
        assert_eq!(client.next().await, None);
    }
}

#[tokio::test]
async fn an_end_within_an_utterance_and_a_pause_within_one_are_told() {
    let mut client = conversation(Patience::default());
    client.send(format("audio-start")).await;
    client.stream.shutdown().await.unwrap();
    assert!(client.refused("malformed").await.contains("ended within"));
    let piece = Duration::from_millis(50);
    let mut client = conversation(Patience { piece, ..Patience::default() });
    client.send(format("audio-start")).await;
    assert!(client.refused("slow").await.starts_with("nothing came for 50ms"));
    assert_eq!(client.next().await, None);
}
