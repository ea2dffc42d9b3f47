//! Work that is too long for the thread that everybody's requests come by.

use crate::inference::Refusal;

/// Bytes from which on they are read or written elsewhere: some 100 µs of work.
const LARGE: usize = 128 << 10;

/// Does `work` at once, or on a thread of its own where it is with many bytes.
///
/// # Errors
/// [`Refusal::Failed`] where that thread panics.
pub async fn apart<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    if bytes < LARGE {
        return Ok(work());
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Refusal::Failed(error.to_string()))
}
