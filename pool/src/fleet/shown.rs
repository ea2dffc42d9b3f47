//! What a worker shows of itself: its instances' rows, and the model or service that it is to
//! clients.

use std::sync::Arc;
use std::time::Duration;

use downbeat_api::pool::{Worker, WorkerState};

use super::Fleet;
use crate::adapters::{self, denoise};
use crate::config::{Adapter, Program, WyomingService};
use crate::inference::{Metadata, SoundAt};
use crate::member::Member;
use crate::memory::Hold;
use crate::outside::is_outside;
use crate::program::port;
use crate::store::Target;
use crate::view::{Kind, Model, Standing};
use crate::wyoming::services::Service;

impl Fleet {
    /// For the status: a row for each instance, and one for a worker that has none.
    #[must_use]
    pub fn status(&self) -> Vec<Worker> {
        if self.members.is_empty() && self.leaving.is_none() {
            let mut row =
                Member::new(self.config.clone(), 0, self.generation, None, Duration::ZERO).status();
            (row.state, row.note) = match self.standing() {
                Standing::Ready if is_outside(&self.config) => (WorkerState::Ready, None),
                Standing::Ready => {
                    let note = if self.memory.unloaded {
                        "unloaded to make room for another; the next request loads it"
                    } else {
                        "no instance runs; the next request starts one"
                    };
                    (WorkerState::Stopped, Some(note.into()))
                }
                Standing::Coming(reason) => (WorkerState::Starting, Some(reason)),
                Standing::Down(reason) => (WorkerState::Failed, Some(reason)),
            };
            return vec![row];
        }
        self.members.values().map(Member::status).collect()
    }

    /// Addresses (`host:port`) of the instances that take `/v1/*`; nothing where it takes none.
    #[must_use]
    pub fn openai(&self) -> Option<Vec<String>> {
        if !self.config.openai {
            return None;
        }
        if let Some(url) = self.config.adapter.as_ref().and_then(Adapter::url) {
            return Some(vec![url.strip_prefix("http://").unwrap_or(url).into()]);
        }
        let ready = |(_, member): &(&usize, &Member)| member.state() == WorkerState::Ready;
        let address = |(&slot, _): (&usize, &Member)| {
            Some(format!("127.0.0.1:{}", port(&self.config, slot)?))
        };
        Some(self.members.iter().filter(ready).filter_map(address).collect())
    }

    /// What it does for Wyoming clients.
    #[must_use]
    pub fn wyoming(&self) -> Option<Service> {
        if self.leaving.is_some() {
            return None;
        }
        let target = self.target.as_ref().ok().filter(|_| self.stored().is_some());
        let (labels, description) = match target {
            Some(target) => (Arc::clone(&target.labels), target.description.description.clone()),
            None => (Arc::from([]), format!("[worker.{}] of pool.d", self.config.name)),
        };
        Some(Service {
            declared: self.config.wyoming.clone()?,
            deadline: self.config.deadline,
            labels,
            installed: !matches!(self.standing(), Standing::Down(_)),
            description,
        })
    }

    /// Whether it takes requests.
    pub(super) fn standing(&self) -> Standing {
        if is_outside(&self.config) {
            return self.outside.standing();
        }
        let staying = || self.members.values().filter(|member| !member.is_leaving());
        if self.members.values().any(|member| member.state() == WorkerState::Ready) {
            return Standing::Ready;
        }
        if let (Some(_), Err(reason)) = (self.stored(), &self.target) {
            return Standing::Down(reason.clone());
        }
        let over =
            |member: &&Member| matches!(member.state(), WorkerState::Failed | WorkerState::Stopped);
        let note = |member: &Member| member.note().unwrap_or("its worker is down").to_owned();
        match staying().next() {
            None if self.wanted_now() == 0 => Standing::Ready,
            None if let Some(Hold::Short(reason)) = &self.memory.hold => {
                Standing::Down(reason.clone())
            }
            None if let Some(Hold::Soon(reason)) = &self.memory.hold => {
                Standing::Coming(reason.clone())
            }
            None => Standing::Coming("its worker is starting".into()),
            Some(first) if staying().all(|member| over(&member)) => Standing::Down(note(first)),
            Some(_) => Standing::Coming("its worker is starting".into()),
        }
    }

    /// As a model of the Open Inference Protocol; nothing for what is none.
    #[must_use]
    pub fn model(&self) -> Option<Model> {
        if self.leaving.is_some() {
            return None;
        }
        let standing = self.standing();
        if !self.config.takes_requests() {
            return None;
        }
        let stored = self.stored().map(str::to_owned);
        let denoise = self.config.program == Program::Denoise;
        let kind = if denoise { Kind::Denoise } else { Kind::Declared { stored } };
        let deadline = self.config.request_deadline();
        Some(Model { standing, metadata: self.metadata().map(Arc::new), kind, deadline })
    }

    fn metadata(&self) -> Option<Metadata> {
        let name = self.config.name.clone();
        if self.config.program == Program::Denoise {
            return Some(denoise::metadata(&name));
        }
        if self.stored().is_some() {
            let Target { artifact, description, .. } = self.target.as_ref().ok()?;
            return Some(Metadata {
                name,
                versions: vec![artifact.version.to_string()],
                platform: format!("{}_{}", self.config.engine.name(), description.platform.name()),
                inputs: description.inputs.clone(),
                outputs: description.outputs.clone(),
                // Below that, the first dimension need not be that of rows.
                max_rows: Some(description.max_batch).filter(|rows| *rows > 1),
                sound: description.sample_rate.map(SoundAt::Input),
            });
        }
        let or = |declared: &Vec<_>, default: fn() -> _| {
            if declared.is_empty() { vec![default()] } else { declared.clone() }
        };
        let (inputs, outputs) = (&self.config.inputs, &self.config.outputs);
        let (platform, inputs, outputs) = match self.config.adapter.as_ref()? {
            // The other server knows what it takes.
            Adapter::Oip(_) => ("external_oip", inputs.clone(), outputs.clone()),
            Adapter::Http(_) | Adapter::Stdio(_) => (
                "external",
                or(inputs, adapters::default_input),
                or(outputs, adapters::default_output),
            ),
        };
        let versions = vec!["1".into()];
        let platform = platform.into();
        let sound = self.config.wyoming.as_ref().map(|wyoming| match wyoming.service {
            WyomingService::Synthesize => SoundAt::Output(wyoming.rate),
            WyomingService::Transcribe | WyomingService::Detect { .. } => {
                SoundAt::Input(wyoming.rate)
            }
        });
        Some(Metadata { name, versions, platform, inputs, outputs, max_rows: None, sound })
    }
}
