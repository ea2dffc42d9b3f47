//! The Wyoming protocol, by which voice assistants speak with their servers: an utterance to its
//! text, a text to a voice, words in a stream. Each becomes an ordinary request to the worker of
//! pool.d that declares `wyoming = { … }`, with a deadline from the end of the utterance on.
//!
//! [`event`], [`sound`], [`wav`], [`tensors`], [`spot`] and [`services`] are pure; [`link`] is one
//! connection, [`session`] one conversation.

pub mod event;
mod link;
mod problem;
mod resample;
pub mod services;
mod session;
pub mod sound;
mod spot;
mod tensors;
pub mod wav;

use std::net::SocketAddr;
use std::path::PathBuf;

use tracing::warn;

use crate::oip::Models;
use crate::oip::listen::{self, Accept, Listener};
use link::{Budget, Link, Patience};
use session::Session;

/// Where it is served, as soon as a worker has a part in it: whoever has no such worker has no open
/// port either.
#[derive(Clone, Debug, Default)]
pub struct Door {
    /// TCP.
    pub tcp: Option<SocketAddr>,
    /// A Unix socket.
    pub unix: Option<PathBuf>,
    models: Option<Models>,
    address: Option<String>,
    problems: Vec<String>,
}

impl Door {
    /// To these places, over these models.
    #[must_use]
    pub fn new(tcp: Option<SocketAddr>, unix: Option<PathBuf>, models: Models) -> Self {
        Self { tcp, unix, models: Some(models), ..Self::default() }
    }

    /// The address on TCP, once it is open.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    /// Why a place is not served.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Opens it, if it is not open and a worker needs it. Says whether it did.
    pub async fn open_if_wanted(&mut self) -> bool {
        let wanted = self.models.as_ref().is_some_and(|models| !models.wyoming().is_empty());
        let Some(models) = self.models.take_if(|_| wanted) else {
            return false;
        };
        let mut listeners = Vec::new();
        if let Some(path) = self.unix.take() {
            listeners.push(listen::unix(&path));
        }
        if let Some(address) = self.tcp.take() {
            let found = listen::tcp("--wyoming", address).await;
            listeners.push(found.map(|(listener, address)| {
                self.address = Some(address);
                listener
            }));
        }
        let budget = Budget::default();
        for listener in listeners {
            match listener {
                Ok(listener) => {
                    tokio::spawn(serve(listener, models.clone(), budget.clone()));
                }
                Err(problem) => {
                    warn!("{problem}");
                    self.problems.push(problem);
                }
            }
        }
        true
    }
}

/// Serves until the task is dropped.
async fn serve(listener: Listener, models: Models, budget: Budget) {
    let accept = Accept::new(listener);
    loop {
        let connection = accept.next().await;
        let client = connection.peer().client(None);
        let link = Link::new(connection, Patience::default(), &budget);
        tokio::spawn(Session::new(link, models.clone(), client).run());
    }
}
