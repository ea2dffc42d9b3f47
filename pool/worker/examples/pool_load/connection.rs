//! A connection over TCP or a Unix socket.

use std::io::IoSlice;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::call::Answer;

/// What is read at a time.
const CHUNK: usize = 16 << 10;

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// One connection, with one request at a time on it.
pub struct Connection {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Connection {
    /// To `unix:PATH` or `HOST:PORT`.
    pub async fn open(target: &str) -> Result<Self> {
        let socket = match target.strip_prefix("unix:") {
            Some(path) => Socket::Unix(UnixStream::connect(Path::new(path)).await?),
            None => {
                let stream = TcpStream::connect(target).await?;
                stream.set_nodelay(true)?;
                Socket::Tcp(stream)
            }
        };
        Ok(Self { socket, buffer: Vec::new() })
    }

    /// Sends a request and gives what `read` makes of its answer, and whether the connection is of
    /// no use any more.
    pub async fn ask<T>(
        &mut self,
        head: &[u8],
        elements: &[u8],
        read: impl FnOnce(&Answer<'_>) -> T,
    ) -> Result<(T, bool)> {
        self.send(head, elements).await.context("sending")?;
        loop {
            if let Some(answer) = Answer::read(&self.buffer)? {
                let (length, last) = (answer.length, answer.last);
                let result = read(&answer);
                self.buffer.drain(..length);
                return Ok((result, last));
            }
            self.buffer.reserve(CHUNK);
            let count = match &mut self.socket {
                Socket::Tcp(stream) => stream.read_buf(&mut self.buffer).await,
                Socket::Unix(stream) => stream.read_buf(&mut self.buffer).await,
            };
            if count.context("receiving")? == 0 {
                bail!("the server closed the connection");
            }
        }
    }

    /// Whether the server has closed it; to be asked where nothing is due.
    pub fn is_closed(&self) -> bool {
        let mut byte = [0];
        let read = match &self.socket {
            Socket::Tcp(stream) => stream.try_read(&mut byte),
            Socket::Unix(stream) => stream.try_read(&mut byte),
        };
        // Anything but "nothing yet" is a connection that cannot be used.
        !read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    async fn send(&mut self, head: &[u8], elements: &[u8]) -> std::io::Result<()> {
        let mut slices = [IoSlice::new(head), IoSlice::new(elements)];
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let count = match &mut self.socket {
                Socket::Tcp(stream) => stream.write_vectored(left).await?,
                Socket::Unix(stream) => stream.write_vectored(left).await?,
            };
            if count == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut left, count);
        }
        Ok(())
    }
}
