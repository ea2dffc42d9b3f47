use super::*;
use crate::dispatch::Dispatcher;
use crate::oip::Backend;
use crate::store::Store;
use crate::view::{Kind, Model, Standing, View};
use tokio::io::Lines;
use tracing_subscriber::layer::SubscriberExt as _;

/// A client of a pool with the stream model `mic`.
struct Client {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    sources: Sources,
}

impl Client {
    fn connect(right: Right) -> Self {
        let view = View::default();
        let model = Model {
            standing: Standing::Ready,
            metadata: None,
            kind: Kind::Denoise,
            deadline: None,
        };
        view.lock().models.insert("mic".into(), model);
        view.lock().status.note = Some("hello".into());
        let store = Store::new(std::path::Path::new("/no/models"));
        let backend = Backend::new(view, Dispatcher::new(Default::default()), store);
        let (models, logs) = (Models::new(backend), Logs::default());
        let sources = Sources { models, logs, rights: Arc::default() };
        let (client, server) = UnixStream::pair().unwrap();
        let own = sources.clone();
        tokio::spawn(async move { converse(server, (1000, right), &own).await });
        let (reader, writer) = client.into_split();
        Self { lines: BufReader::new(reader).lines(), writer, sources }
    }

    async fn hear(&mut self) -> Option<PoolResponse> {
        let line = self.lines.next_line().await.unwrap()?;
        Some(serde_json::from_str(&line).unwrap())
    }

    async fn ask(&mut self, request: &str) -> PoolResponse {
        self.writer.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        self.hear().await.expect("an answer")
    }

    async fn refused(&mut self, request: &str) -> String {
        match self.ask(request).await {
            PoolResponse::Error { message } => message,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn nonsense_is_answered_with_what_to_send() {
    let mut client = Client::connect(Right::Change);
    for line in ["", "status", "{\"op\":\"explode\"}", "{\"op\":\"load\"}"] {
        let message = client.refused(line).await;
        assert!(message.contains("{\"op\":\"status\"}"), "{message}");
    }
}

#[tokio::test]
async fn a_connection_can_ask_more_than_once_and_an_endless_line_ends_it() {
    let mut client = Client::connect(Right::Change);
    for _ in 0..2 {
        let PoolResponse::Status(status) = client.ask("{\"op\":\"status\"}").await else {
            panic!("no status");
        };
        assert_eq!(status.note.as_deref(), Some("hello"));
        assert_eq!(status.models[0].name, "mic");
    }
    client.writer.write_all(&vec![b'x'; MAX_LINE as usize]).await.unwrap();
    let Some(PoolResponse::Error { message }) = client.hear().await else { panic!("taken") };
    assert!(message.contains("more than 65536 bytes"), "{message}");
    assert_eq!(client.hear().await, None);
}

#[tokio::test]
async fn a_drained_model_takes_nothing_until_it_is_loaded() {
    let mut client = Client::connect(Right::Change);
    let PoolResponse::Done { message } = client.ask("{\"op\":\"drain\",\"name\":\"mic\"}").await
    else {
        panic!("not drained");
    };
    assert!(message.contains("has answered all it had"), "{message}");
    let models = client.sources.models.clone();
    assert!(!models.model_ready("mic", None).unwrap());
    let request = crate::inference::Request {
        model: "mic".into(),
        version: None,
        id: String::new(),
        inputs: vec![],
        shared: vec![],
        outputs: vec![],
        terms: crate::inference::Terms::of("test"),
    };
    let refusal = models.infer(request).await.unwrap_err();
    assert!(matches!(&refusal, Refusal::Unavailable(reason) if reason.contains("pool load mic")));
    let done = client.ask("{\"op\":\"load\",\"name\":\"mic\"}").await;
    assert!(matches!(done, PoolResponse::Done { .. }), "{done:?}");
    assert!(models.model_ready("mic", None).unwrap());
    let refusal = client.refused("{\"op\":\"load\",\"name\":\"mic\"}").await;
    assert!(refusal.contains("no model of the store"), "{refusal}");
    let unknown = client.refused("{\"op\":\"drain\",\"name\":\"mick\"}").await;
    assert!(unknown.contains("those of pool.d: mic"), "{unknown}");
}

#[tokio::test]
async fn looking_and_changing_are_two_rights() {
    let mut stranger = Client::connect(Right::None);
    let Some(PoolResponse::Error { message }) = stranger.hear().await else { panic!("let in") };
    assert!(message.contains("may not look"), "{message}");
    let mut reader = Client::connect(Right::Read);
    assert!(matches!(reader.ask("{\"op\":\"status\"}").await, PoolResponse::Status(_)));
    for op in ["load", "unload", "drain"] {
        let request = format!("{{\"op\":\"{op}\",\"name\":\"mic\"}}");
        let message = reader.refused(&request).await;
        assert!(message.contains("may look and not change"), "{message}");
    }
    assert!(reader.sources.models.model_ready("mic", None).unwrap());
}

#[tokio::test]
async fn a_log_is_told_and_followed() {
    let mut client = Client::connect(Right::Change);
    let logs = client.sources.logs.clone();
    let write = |text: &'static str| {
        let subscriber = tracing_subscriber::registry().with(logs.clone());
        tracing::subscriber::with_default(subscriber, || info!(worker = "mic", "{text}"));
    };
    write("first");
    let unknown = client.refused("{\"op\":\"logs\",\"name\":\"mick\",\"follow\":false}").await;
    assert!(unknown.contains("no worker `mick`"), "{unknown}");
    let texts = |response| match response {
        PoolResponse::Logs { lines } => lines.into_iter().map(|line| line.text).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let told = client.ask("{\"op\":\"logs\",\"name\":\"mic\",\"follow\":false}").await;
    assert_eq!(texts(told), ["first"]);
    let told = client.ask("{\"op\":\"logs\",\"name\":\"mic\",\"follow\":true}").await;
    assert_eq!(texts(told), ["first"]);
    write("second");
    assert_eq!(texts(client.hear().await.unwrap()), ["second"]);
    write("third");
    assert_eq!(texts(client.hear().await.unwrap()), ["third"]);
}
