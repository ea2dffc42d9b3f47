//! What holds for every line, whoever sent it. Shared with the fuzz target.

use downbeat_api::{LONGEST_REQUEST, Request, Response};

/// Decodes a line and checks the outcome.
pub fn check(line: &[u8]) {
    match Request::decode(line) {
        Ok(request) => {
            let again = serde_json::to_vec(&request).expect("requests are JSON");
            assert_eq!(Request::decode(&again).expect("what was read is read again"), request);
            assert!(!again.contains(&b'\n'), "a request is one line");
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty());
            // What is answered to nonsense stays in proportion to it.
            assert!(message.len() as u64 <= 8 * LONGEST_REQUEST + line.len() as u64 * 8);
            let answer = serde_json::to_string(&Response::Error { message });
            assert!(!answer.expect("answers are JSON").contains('\n'), "an answer is one line");
        }
    }
}
