//! What workers say of themselves, in the manner of sd_notify(3), each on a socket of its own.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio::net::UnixDatagram;

/// Longer messages are cut; ours have some hundred bytes.
pub const MAX_MESSAGE: usize = 4096;

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// `READY=1`.
    pub ready: bool,
    /// `X_FRAMES`.
    pub frames: Option<u64>,
    /// `X_MISSED`.
    pub missed: Option<u64>,
    /// `X_COMPUTE_P50_NS`.
    pub compute_p50_ns: Option<u64>,
    /// `X_COMPUTE_P99_NS`.
    pub compute_p99_ns: Option<u64>,
}

impl Message {
    /// Reads `KEY=VALUE` lines; what is not known or not a number is skipped.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let mut message = Self::default();
        for line in bytes.split(|byte| *byte == b'\n') {
            let Some((key, value)) = str::from_utf8(line).ok().and_then(|l| l.split_once('='))
            else {
                continue;
            };
            let number = || value.parse().ok();
            match key {
                "READY" => message.ready = value == "1",
                "X_FRAMES" => message.frames = number(),
                "X_MISSED" => message.missed = number(),
                "X_COMPUTE_P50_NS" => message.compute_p50_ns = number(),
                "X_COMPUTE_P99_NS" => message.compute_p99_ns = number(),
                _ => {}
            }
        }
        message
    }
}

/// A worker's socket at `path`, in place of what a killed pool left there.
///
/// # Errors
/// The kernel's.
pub fn bind(path: &Path) -> io::Result<UnixDatagram> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read() {
        let message = Message::parse(
            b"STATUS=1 streams\nX_FRAMES=12\nX_MISSED=1\nX_COMPUTE_P50_NS=50\nX_COMPUTE_P99_NS=99\n",
        );
        let wanted = Message {
            ready: false,
            frames: Some(12),
            missed: Some(1),
            compute_p50_ns: Some(50),
            compute_p99_ns: Some(99),
        };
        assert_eq!(message, wanted);
        assert!(Message::parse(b"READY=1").ready);
        assert!(!Message::parse(b"READY=0\n").ready);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = Message::parse(&bytes);
        }

        #[test]
        fn what_is_no_number_is_absent(value in "[^0-9\n+]{0,8}") {
            let message = Message::parse(format!("X_FRAMES={value}\n").as_bytes());
            proptest::prop_assert_eq!(message.frames, None);
        }
    }
}
