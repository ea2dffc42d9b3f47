//! Inputs in memory that a client shares (of Triton's system shared memory extension): it puts them
//! into a file of `/dev/shm`, registers that under a name, and its requests say where in it their
//! inputs lie.
//!
//! What the pool opens on behalf of others must be theirs. So this is for clients on a Unix socket,
//! of which the kernel says whose they are; nobody says so of TCP (`/proc/net/tcp` gives user 0 for
//! connections that are being closed). And there are no outputs in shared memory: to write to a
//! client's file is to wait for as long as that client holds its lock.

mod files;
mod regions;

pub use regions::{Regions, Shown};

use downbeat_link::{DataType, MAX_TENSORS, SharedInput};

use super::listen::Peer;
use super::parameters::{self, Parameter, Parameters};
use super::rest::MAX_BODY;
use crate::inference::Refusal;

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
    /// Where an input's parameters say that it is.
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
pub struct Placed {
    /// Its name in the model.
    pub name: String,
    /// Of its elements.
    pub datatype: DataType,
    /// Elements per dimension.
    pub shape: Vec<u64>,
    /// Where it is.
    pub place: Place,
}

/// Finds the regions of a peer's inputs.
///
/// # Errors
/// [`Refusal::Invalid`] for a region that the peer did not register or that is too short, and for
/// byte strings, whose lengths are in what they hold; [`Refusal::TooLarge`].
pub fn open(
    placed: Vec<Placed>,
    regions: &Regions,
    peer: Option<&Peer>,
) -> Result<Vec<SharedInput>, Refusal> {
    if placed.is_empty() {
        return Ok(Vec::new());
    }
    let user = user(peer)?;
    let total = placed.iter().fold(0_u64, |sum, it| sum.saturating_add(it.place.bytes));
    if placed.len() > MAX_TENSORS || total > MAX_BODY as u64 {
        return Err(Refusal::TooLarge(format!(
            "{} inputs with {total} bytes in shared memory; a request has {MAX_TENSORS} with \
             {MAX_BODY} at most",
            placed.len()
        )));
    }
    let input = |Placed { name, datatype, shape, place }: Placed| {
        if datatype == DataType::Bytes {
            return Err(Refusal::Invalid(format!(
                "input `{name}` is of byte strings, which are not read from shared memory: send them"
            )));
        }
        let region = regions.region(user, &place)?;
        let input = SharedInput { name, datatype, shape, region };
        input.check().map_err(|error| Refusal::Invalid(error.to_string()))?;
        Ok(input)
    };
    placed.into_iter().map(input).collect()
}

/// The user whose regions a peer's are.
///
/// # Errors
/// [`Refusal::Invalid`].
pub fn user(peer: Option<&Peer>) -> Result<u32, Refusal> {
    /// Whom the kernel names where it has no number: users of a container that are nobody here.
    const OVERFLOW: u32 = 65_534;
    peer.and_then(Peer::user).filter(|user| *user != OVERFLOW).ok_or_else(|| {
        Refusal::Invalid(
            "shared memory is for users of this host who come by the Unix socket: send the tensors \
             as binary data"
                .into(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(datatype: DataType, bytes: u64) -> Placed {
        let place = Place { region: "r".into(), offset: 0, bytes };
        Placed { name: "x".into(), datatype, shape: vec![bytes], place }
    }

    fn said(inputs: Vec<Placed>, peer: Option<&Peer>) -> String {
        open(inputs, &Regions::default(), peer).unwrap_err().to_string()
    }

    #[test]
    fn only_who_is_known_shares_memory() {
        let one = || vec![placed(DataType::Uint8, 4)];
        let tcp = Peer::of_address("127.0.0.1:7".parse().unwrap());
        for peer in
            [None, Some(&tcp), Some(&Peer::of_user(None)), Some(&Peer::of_user(Some(65_534)))]
        {
            assert!(said(one(), peer).contains("come by the Unix socket"), "{peer:?}");
        }
        let known = Peer::of_user(Some(7));
        assert!(said(one(), Some(&known)).contains("no shared memory region `r`"));
        assert_eq!(open(Vec::new(), &Regions::default(), None).unwrap().len(), 0);
    }

    #[test]
    fn a_request_has_so_much_in_shared_memory_and_no_byte_strings() {
        let peer = Peer::of_user(Some(7));
        let max = MAX_BODY as u64;
        let many = vec![placed(DataType::Uint8, 0); MAX_TENSORS + 1];
        for inputs in [
            vec![placed(DataType::Uint8, max + 1)],
            vec![placed(DataType::Uint8, max), placed(DataType::Uint8, 1)],
            vec![placed(DataType::Uint8, u64::MAX); 2],
            many,
        ] {
            assert!(said(inputs, Some(&peer)).contains("a request has 256 with 67108864 at most"));
        }
        assert!(said(vec![placed(DataType::Bytes, 4)], Some(&peer)).contains("byte strings"));
    }
}
