//! What holds of every request, shared by the tests and the fuzz targets.

use bytes::Bytes;
use downbeat_pool::inference::{Refusal, Request};
use downbeat_pool::oip;

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
