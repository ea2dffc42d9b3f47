//! The control socket: one line of JSON in, one line out.

use std::sync::Arc;
use std::time::Duration;

use downbeat_api::pool::{PoolRequest, PoolResponse};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::warn;

use crate::view::View;

/// Connections at a time; more wait.
const MAX_CONNECTIONS: usize = 32;

/// The longest request.
const MAX_LINE: u64 = 64 * 1024;

/// A connection that asks nothing for so long is closed, and one that reads nothing.
const IDLE: Duration = Duration::from_secs(60);

/// Answers until the task is dropped.
pub async fn serve(listener: UnixListener, view: View) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((connection, _)) => {
                let view = view.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    // A peer that went away is no event worth a line.
                    let _ = converse(connection, &view).await;
                });
            }
            Err(error) => {
                warn!("control socket: accept: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn converse(connection: UnixStream, view: &View) -> std::io::Result<()> {
    let (reader, mut writer) = connection.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(MAX_LINE);
        if timeout(IDLE, limited.read_until(b'\n', &mut line)).await?? == 0 {
            return Ok(());
        }
        let whole = line.ends_with(b"\n") || (line.len() as u64) < MAX_LINE;
        let response = if whole { answer(&line, view) } else { too_long() };
        let mut text = serde_json::to_vec(&response)?;
        text.push(b'\n');
        timeout(IDLE, writer.write_all(&text)).await??;
        if !whole {
            return Ok(());
        }
    }
}

fn answer(line: &[u8], view: &View) -> PoolResponse {
    match serde_json::from_slice(line) {
        Ok(PoolRequest::Status) => PoolResponse::Status(view.lock().status.clone()),
        Err(error) => PoolResponse::Error {
            message: format!("not a request ({error}); send one line like {{\"op\":\"status\"}}"),
        },
    }
}

fn too_long() -> PoolResponse {
    PoolResponse::Error { message: format!("a request of more than {MAX_LINE} bytes") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_answered_with_what_to_send() {
        for line in [&b"\n"[..], b"status\n", b"{\"op\":\"explode\"}\n", b"\xff\n"] {
            let PoolResponse::Error { message } = answer(line, &View::default()) else {
                panic!("{line:?} was understood");
            };
            assert!(message.contains("{\"op\":\"status\"}"), "{message}");
        }
    }

    #[tokio::test]
    async fn a_connection_can_ask_more_than_once_and_an_endless_line_ends_it() {
        let (client, server) = UnixStream::pair().unwrap();
        let view = View::default();
        view.lock().status.note = Some("hello".into());
        let task = tokio::spawn(async move { converse(server, &view).await });
        let (reader, mut writer) = client.into_split();
        let mut lines = BufReader::new(reader).lines();
        for _ in 0..2 {
            writer.write_all(b"{\"op\":\"status\"}\n").await.unwrap();
            let line = lines.next_line().await.unwrap().unwrap();
            assert!(line.contains("\"note\":\"hello\""), "{line}");
        }
        writer.write_all(&vec![b'x'; MAX_LINE as usize]).await.unwrap();
        let line = lines.next_line().await.unwrap().unwrap();
        assert!(line.contains("more than 65536 bytes"), "{line}");
        assert_eq!(lines.next_line().await.unwrap(), None);
        task.await.unwrap().unwrap();
    }
}
