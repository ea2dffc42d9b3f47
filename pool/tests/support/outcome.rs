//! What holds of every request, shared by the tests and the fuzz targets.

use bytes::Bytes;
use downbeat_pool::inference::{Refusal, Request};
use downbeat_pool::oip;
use downbeat_pool::wyoming::event::{Decoder, Event, Malformed};
use downbeat_pool::wyoming::sound::{Converter, Format};
use downbeat_pool::wyoming::wav;

/// Two bytes say how much of the rest is JSON, little endian; 65535 stands for a request that does
/// not say so.
pub fn rest(data: &[u8]) {
    let Some((length, body)) = data.split_first_chunk::<2>() else { return };
    let length = u16::from_le_bytes(*length);
    let json = (length != u16::MAX).then_some(usize::from(length));
    check(oip::read_rest(json, &Bytes::copy_from_slice(body)));
}

/// A message of the protocol.
pub fn grpc(data: &[u8]) {
    check(oip::read_grpc(Bytes::copy_from_slice(data)));
}

/// What a Wyoming client sends; how the pieces are cut changes nothing.
pub fn wyoming(data: &[u8]) {
    let (whole, why) = events(data, data.len().max(1));
    let (cut, why_too) = events(data, 7);
    assert_eq!((&whole, &why), (&cut, &why_too));
    for event in whole {
        if let Ok(format) = Format::of(&event) {
            assert!(format.frame() > 0);
            // A rate of the sound's own: a resampler for each would be all that is measured.
            let mut samples = Vec::new();
            let mut converter = Converter::new(format, format.rate).expect("nothing to convert");
            if converter.push(&event.payload, &mut samples).is_ok() {
                assert_eq!(samples.len(), event.payload.len() / format.frame());
            }
        }
        if let Ok(sound) = wav::read(&event.payload) {
            assert!(sound.samples.len().is_multiple_of(sound.format.frame()));
        }
    }
}

/// The events in some bytes, and why there are no more.
fn events(data: &[u8], piece: usize) -> (Vec<Event>, Option<Malformed>) {
    let (mut decoder, mut events) = (Decoder::default(), Vec::new());
    for piece in data.chunks(piece) {
        decoder.buffer.extend_from_slice(piece);
        loop {
            match decoder.take() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(malformed) => return (events, Some(malformed)),
            }
        }
    }
    (events, None)
}

fn check(outcome: Result<Request, Refusal>) {
    match outcome {
        Ok(request) => {
            for input in &request.inputs {
                assert_eq!(input.check(), Ok(()));
            }
        }
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
}
