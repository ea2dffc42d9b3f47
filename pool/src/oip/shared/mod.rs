//! Tensors in memory that a client shares (Triton's system shared memory extension): it puts them
//! into a file of `/dev/shm`, registers that under a name, and its requests say where in it their
//! inputs lie and where their outputs go.
//!
//! A name belongs to the user who registered it, and a file is opened only where that user may open
//! it: whoever asks the pool reads and writes no more of others' memory than without it.

mod regions;

pub use regions::{Regions, Shown};

use std::os::fd::OwnedFd;
use std::sync::Arc;

use downbeat_link::{DataType, SharedInput, Tensor};
use rustix::io::Errno;

use super::listen::Peer;
use super::parameters::{self, Parameter, Parameters};
use crate::inference::Refusal;

/// Most bytes of the inputs of one request that are in shared memory: as in a body.
const MAX_SHARED: u64 = 64 << 20;

/// Part of a region, by its client's name for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the region.
    pub region: String,
    /// Bytes from the region's beginning.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Place {
    /// Where a tensor's parameters say that it is, or goes.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] naming the parameter.
    pub fn of(tensor: &str, parameters: &Parameters) -> Result<Option<Self>, Refusal> {
        const KEYS: [&str; 3] =
            ["shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"];
        let region = match parameters.get(KEYS[0]) {
            Some(Parameter::Text(region)) => region.clone(),
            None if !KEYS.iter().any(|key| parameters.contains_key(*key)) => return Ok(None),
            _ => {
                return Err(Refusal::Invalid(format!(
                    "`{tensor}` has no `shared_memory_region` that is the name of a registered region"
                )));
            }
        };
        let Some(bytes) = parameters::whole(parameters, KEYS[1])? else {
            return Err(Refusal::Invalid(format!(
                "`{tensor}` is in shared memory; give `shared_memory_byte_size` too"
            )));
        };
        let offset = parameters::whole(parameters, KEYS[2])?.unwrap_or(0);
        Ok(Some(Self { region, offset, bytes }))
    }
}

/// An input that is in shared memory, as its request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedInput {
    /// Its name in the model.
    pub name: String,
    /// Of its elements.
    pub datatype: DataType,
    /// Elements per dimension.
    pub shape: Vec<u64>,
    /// Where it is.
    pub place: Place,
}

/// What of a request is in shared memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// Inputs.
    pub inputs: Vec<PlacedInput>,
    /// Outputs, by their names.
    pub outputs: Vec<(String, Place)>,
}

impl Placed {
    /// Where an output goes; nothing where it goes with the answer.
    pub fn output(&self, name: &str) -> Option<&Place> {
        self.outputs.iter().find(|(of, _)| of == name).map(|(_, place)| place)
    }

    /// Finds the regions of a peer's request.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for a region that the peer did not register or that is too short,
    /// [`Refusal::TooLarge`].
    pub fn open(
        &self,
        regions: &Regions,
        peer: Option<&Peer>,
    ) -> Result<(Vec<SharedInput>, Targets), Refusal> {
        if self.inputs.is_empty() && self.outputs.is_empty() {
            return Ok(Default::default());
        }
        let user = user(peer)?;
        let total = self.inputs.iter().fold(0_u64, |sum, it| sum.saturating_add(it.place.bytes));
        if total > MAX_SHARED {
            return Err(Refusal::TooLarge(format!(
                "{total} bytes of inputs in shared memory; a request has {MAX_SHARED} at most"
            )));
        }
        let input = |input: &PlacedInput| {
            let PlacedInput { name, datatype, shape, place } = input.clone();
            let region = regions.readable(user, &place)?;
            let input = SharedInput { name, datatype, shape, region };
            input.check().map_err(|error| Refusal::Invalid(error.to_string()))?;
            Ok(input)
        };
        let inputs = self.inputs.iter().map(input).collect::<Result<_, Refusal>>()?;
        let target = |(name, place): &(String, Place)| {
            let (file, at) = regions.writable(user, place)?;
            Ok(Target { output: name.clone(), file, at, bytes: place.bytes })
        };
        let targets = self.outputs.iter().map(target).collect::<Result<_, Refusal>>()?;
        Ok((inputs, Targets(targets)))
    }
}

/// The user whose regions a peer's are.
///
/// # Errors
/// [`Refusal::Invalid`].
pub fn user(peer: Option<&Peer>) -> Result<u32, Refusal> {
    peer.and_then(Peer::user).ok_or_else(|| {
        Refusal::Invalid(
            "shared memory is for clients on this host, by a Unix socket or loopback: send the \
             tensors as binary data"
                .into(),
        )
    })
}

/// Where the outputs of a request go.
#[derive(Debug, Default)]
pub struct Targets(Vec<Target>);

#[derive(Debug)]
struct Target {
    output: String,
    file: Arc<OwnedFd>,
    /// Bytes from the file's beginning.
    at: u64,
    bytes: u64,
}

impl Targets {
    /// Bytes of an answer that will be written.
    pub fn size(&self, outputs: &[Tensor]) -> usize {
        let of = |target: &Target| {
            outputs.iter().find(|it| it.name == target.output).map_or(0, |it| it.data.len())
        };
        self.0.iter().map(of).sum()
    }

    /// Writes the outputs of an answer to where they go.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for an output that is longer than its place, [`Refusal::Failed`] with
    /// what the kernel said.
    pub fn write(&self, outputs: &[Tensor]) -> Result<(), Refusal> {
        for Target { output, file, at, bytes } in &self.0 {
            let Some(tensor) = outputs.iter().find(|it| it.name == *output) else {
                continue;
            };
            let is = tensor.data.len();
            if is as u64 > *bytes {
                return Err(Refusal::Invalid(format!(
                    "output `{output}` has {is} bytes and its shared memory {bytes}; give it \
                     `shared_memory_byte_size` {is} at least"
                )));
            }
            let mut written = 0;
            while written < is {
                // Writing cannot fail half-way for want of the file's end: it would become longer
                // again, which its owner alone sees.
                match rustix::io::pwrite(file, &tensor.data[written..], at + written as u64) {
                    Ok(0) => return Err(Refusal::Failed(format!("output `{output}`: no room"))),
                    Ok(more) => written += more,
                    Err(Errno::INTR) => {}
                    Err(errno) => {
                        return Err(Refusal::Failed(format!(
                            "output `{output}`: pwrite to shared memory: {errno}"
                        )));
                    }
                }
            }
        }
        Ok(())
    }
}
