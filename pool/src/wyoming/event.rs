//! Events as they travel: a line of JSON, then as many bytes of further JSON and of sound as the line
//! says. Pure: bytes in, events out.

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Bytes of a head, its line break included. Some clients have a whole text in it.
pub const MAX_HEAD: usize = 64 << 10;

/// Bytes of the JSON behind a head.
pub const MAX_DATA: usize = 64 << 10;

/// Bytes of sound in one event: half a minute at 16 kHz, where clients send a tenth of a second.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// What it is, like `audio-chunk`.
    pub kind: String,
    /// What it says.
    pub data: Map<String, Value>,
    /// Sound.
    pub payload: Bytes,
}

/// Why what came is no event. What follows it cannot be told apart from it, so the connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No line break comes.
    #[error("an event begins with a line of at most {MAX_HEAD} bytes, and this one does not end")]
    LongHead,
    /// The head is no JSON, or not of this shape.
    #[error("the line that begins an event is no JSON object as it should be: {0}")]
    Head(String),
    /// More than [`MAX_DATA`] is announced.
    #[error("`data_length` is {0}; at most {MAX_DATA} bytes are taken")]
    LongData(u64),
    /// More than [`MAX_PAYLOAD`] is announced.
    #[error("`payload_length` is {0}; at most {MAX_PAYLOAD} bytes are taken: send smaller chunks")]
    LongPayload(u64),
    /// The data behind the head are no JSON object.
    #[error("the {length} bytes of data behind the head are no JSON object: {reason}")]
    Data {
        /// How many.
        length: usize,
        /// What the parser says.
        reason: String,
    },
}

impl Event {
    /// One that says nothing but its kind.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        Self { kind: kind.into(), ..Self::default() }
    }

    /// The same with a value more.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.data.insert(key.into(), value.into());
        self
    }

    /// A text that it has under `key`.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.data.get(key).and_then(Value::as_str)
    }

    /// A whole number that it has under `key`.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.data.get(key).and_then(Value::as_u64)
    }

    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Head<'a> {
            r#type: &'a str,
            version: &'a str,
            #[serde(skip_serializing_if = "is_none")]
            data_length: usize,
            #[serde(skip_serializing_if = "is_none")]
            payload_length: usize,
        }
        #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
        fn is_none(length: &usize) -> bool {
            *length == 0
        }
        // Names and values of JSON: nothing in them can fail to be written.
        let write = |value: &Map<_, _>| serde_json::to_vec(value).unwrap_or_default();
        let data = if self.data.is_empty() { Vec::new() } else { write(&self.data) };
        let head = Head {
            r#type: &self.kind,
            version: env!("CARGO_PKG_VERSION"),
            data_length: data.len(),
            payload_length: self.payload.len(),
        };
        let mut bytes = serde_json::to_vec(&head).unwrap_or_default();
        bytes.reserve(1 + data.len() + self.payload.len());
        bytes.push(b'\n');
        bytes.extend_from_slice(&data);
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// A head, as far as it matters; clients add what they like.
#[derive(Deserialize)]
struct Head {
    r#type: String,
    #[serde(default)]
    data: Option<Map<String, Value>>,
    #[serde(default)]
    data_length: Option<u64>,
    #[serde(default)]
    payload_length: Option<u64>,
}

/// An event of which the head is there.
#[derive(Debug)]
struct Begun {
    event: Event,
    data: usize,
    payload: usize,
}

/// Makes events of what comes.
#[derive(Debug, Default)]
pub struct Decoder {
    /// What came and is not taken; what comes goes to its end.
    pub buffer: BytesMut,
    /// How much of it has no line break.
    searched: usize,
    begun: Option<Begun>,
}

impl Decoder {
    /// The next event, where all of it is there.
    ///
    /// # Errors
    /// [`Malformed`]; nothing that comes later means anything then.
    pub fn take(&mut self) -> Result<Option<Event>, Malformed> {
        if self.begun.is_none() {
            self.begun = self.head()?;
        }
        let ready = |begun: &mut Begun| self.buffer.len() >= begun.data + begun.payload;
        let Some(Begun { mut event, data, payload }) = self.begun.take_if(ready) else {
            return Ok(None);
        };
        if data > 0 {
            let bytes = self.buffer.split_to(data);
            let more: Map<String, Value> = serde_json::from_slice(&bytes)
                .map_err(|error| Malformed::Data { length: data, reason: error.to_string() })?;
            event.data.extend(more);
        }
        event.payload = self.buffer.split_to(payload).freeze();
        Ok(Some(event))
    }

    fn head(&mut self) -> Result<Option<Begun>, Malformed> {
        let new = &self.buffer[self.searched..];
        let Some(at) = new.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return if self.searched > MAX_HEAD { Err(Malformed::LongHead) } else { Ok(None) };
        };
        let end = self.searched + at;
        if end >= MAX_HEAD {
            return Err(Malformed::LongHead);
        }
        let line = self.buffer.split_to(end);
        self.buffer.advance(1);
        self.searched = 0;
        // serde would take a list for a struct.
        if line.trim_ascii_start().first() != Some(&b'{') {
            return Err(Malformed::Head("it does not begin with a brace".into()));
        }
        let head: Head =
            serde_json::from_slice(&line).map_err(|error| Malformed::Head(error.to_string()))?;
        let within = |length: Option<u64>, most: usize| match length.unwrap_or(0) {
            length if length <= most as u64 => Ok(length as usize),
            length => Err(length),
        };
        let data = within(head.data_length, MAX_DATA).map_err(Malformed::LongData)?;
        let payload = within(head.payload_length, MAX_PAYLOAD).map_err(Malformed::LongPayload)?;
        let data_of_head = head.data.unwrap_or_default();
        let event = Event { kind: head.r#type, data: data_of_head, payload: Bytes::new() };
        Ok(Some(Begun { event, data, payload }))
    }

    /// Whether nothing of a further event came.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.begun.is_none() && self.buffer.is_empty()
    }

    /// What the event that comes will take, as far as it says, in bytes.
    #[must_use]
    pub fn announced(&self) -> usize {
        let begun = self.begun.as_ref().map_or(0, |begun| begun.data + begun.payload);
        begun.max(self.buffer.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8], piece: usize) -> Result<Vec<Event>, Malformed> {
        let mut decoder = Decoder::default();
        let mut events = Vec::new();
        for piece in bytes.chunks(piece) {
            decoder.buffer.extend_from_slice(piece);
            while let Some(event) = decoder.take()? {
                events.push(event);
            }
        }
        Ok(events)
    }

    fn chunk() -> Event {
        let payload = Bytes::from_static(b"\x01\x02\n\x03");
        Event { payload, ..Event::new("audio-chunk").with("rate", 16_000).with("name", "\u{e4}\n") }
    }

    #[test]
    fn what_the_package_sends_is_read() {
        // As its `write_event` has it.
        let sent = b"{\"type\": \"audio-chunk\", \"version\": \"1.10.2\", \"data_length\": 15, \
                     \"payload_length\": 4}\n{\"rate\": 16000}abcd{\"type\": \"audio-stop\"}\n";
        for piece in [1, 7, 4096] {
            let events = read(sent, piece).unwrap();
            let wanted = Event::new("audio-chunk").with("rate", 16_000);
            let wanted = Event { payload: Bytes::from_static(b"abcd"), ..wanted };
            assert_eq!(events, [wanted, Event::new("audio-stop")]);
        }
    }

    #[test]
    fn data_behind_the_head_go_over_those_in_it() {
        let sent = b"{\"type\":\"x\",\"data\":{\"a\":1,\"b\":2},\"data_length\":7}\n{\"b\":3}";
        let wanted = Event::new("x").with("a", 1).with("b", 3);
        assert_eq!(read(sent, 1).unwrap(), [wanted]);
        let sent = b"{\"type\":\"x\",\"data\":null,\"data_length\":null,\"payload_length\":0}\n";
        assert_eq!(read(sent, 1).unwrap(), [Event::new("x")]);
    }

    #[test]
    fn what_is_no_event_is_told_why() {
        let long = format!("{{\"type\":\"{}\"}}\n", "x".repeat(MAX_HEAD));
        for (sent, wanted) in [
            ("GET / HTTP/1.1\r\n", "no JSON object"),
            ("\n", "no JSON object"),
            ("[\"ping\",null,null,null]\n", "does not begin with a brace"),
            ("{}\n", "missing field `type`"),
            ("{\"type\":7}\n", "invalid type: integer `7`"),
            ("{\"type\":\"x\",\"data\":[]}\n", "no JSON object"),
            ("{\"type\":\"x\",\"data_length\":-1}\n", "integer `-1`"),
            ("{\"type\":\"x\",\"data_length\":1.5}\n", "floating point `1.5`"),
            ("{\"type\":\"x\",\"data_length\":65537}\n", "`data_length` is 65537; at most 65536"),
            ("{\"type\":\"x\",\"payload_length\":1048577}\n", "at most 1048576 bytes are taken"),
            ("{\"type\":\"x\",\"payload_length\":18446744073709551615}\n", "send smaller chunks"),
            ("{\"type\":\"x\",\"payload_length\":18446744073709551616}\n", "floating point"),
            ("{\"type\":\"x\",\"data_length\":2}\n[]", "the 2 bytes of data behind the head"),
            (&long, "at most 65536 bytes, and this one does not end"),
            (&long[..=MAX_HEAD], "at most 65536 bytes, and this one does not end"),
        ] {
            for piece in [1000, usize::MAX] {
                let message = read(sent.as_bytes(), piece).unwrap_err().to_string();
                assert!(message.contains(wanted), "{message}");
            }
        }
    }

    #[test]
    fn an_event_in_part_is_no_event_and_not_nothing() {
        let bytes = chunk().encode();
        let mut decoder = Decoder::default();
        assert!(decoder.is_between());
        decoder.buffer.extend_from_slice(&bytes[..bytes.len() - 1]);
        assert_eq!(decoder.take(), Ok(None));
        assert!(!decoder.is_between());
        assert!(decoder.announced() > chunk().payload.len());
        decoder.buffer.extend_from_slice(&bytes[bytes.len() - 1..]);
        assert_eq!(decoder.take(), Ok(Some(chunk())));
        assert!(decoder.is_between());
        assert_eq!(decoder.announced(), 0);
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let value = prop_oneof![
            any::<i64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            "\\PC{0,9}|\n".prop_map(Value::from),
        ];
        let data = prop::collection::btree_map("[a-z_\u{e4}]{1,6}", value, 0..4);
        let payload = prop::collection::vec(any::<u8>(), 0..40);
        ("[a-z-]{0,12}", data, payload).prop_map(|(kind, data, payload)| Event {
            kind,
            data: data.into_iter().collect(),
            payload: payload.into(),
        })
    }

    proptest! {
        #[test]
        fn events_come_back_however_they_are_cut(
            events in prop::collection::vec(any_event(), 0..5),
            piece in 1..60_usize,
        ) {
            let bytes: Vec<u8> = events.iter().flat_map(Event::encode).collect();
            prop_assert_eq!(read(&bytes, piece), Ok(events));
        }

        #[test]
        fn damage_is_read_or_refused(
            event in any_event(),
            at: prop::sample::Index,
            with in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut bytes = event.encode();
            let at = at.index(bytes.len());
            bytes.splice(at..(at + 2).min(bytes.len()), with);
            let _ = read(&bytes, 16);
        }
    }
}
