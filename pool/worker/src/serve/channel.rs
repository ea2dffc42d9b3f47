//! Where the channel is.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};

/// An option's value: the number of an open descriptor, or the path of a socket that a pool listens
/// on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Open already, by whoever started this process.
    Descriptor(RawFd),
    /// To connect to.
    Path(PathBuf),
}

impl FromStr for Channel {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.parse().map_or_else(|_| Self::Path(text.into()), Self::Descriptor))
    }
}

impl Channel {
    /// The socket. A descriptor is taken over; asked for twice, the second time it may be another's.
    pub fn open(&self) -> anyhow::Result<OwnedFd> {
        let number = match self {
            Self::Path(path) => {
                return downbeat_link::connect(path).with_context(|| {
                    format!("--channel {}: no pool listens there", path.display())
                });
            }
            Self::Descriptor(number) => *number,
        };
        if number <= 2 {
            bail!("--channel {number}: give a descriptor above 2, or a socket's path");
        }
        // SAFETY: only asked about, and closed by nobody meanwhile: no other thread runs yet.
        let asked = unsafe { BorrowedFd::borrow_raw(number) };
        let kind = getsockopt(&asked.as_fd(), sockopt::SockType)
            .with_context(|| format!("--channel {number}: not an open socket"))?;
        if kind != SockType::SeqPacket {
            bail!("--channel {number}: a socket of type {kind:?}; it must be SOCK_SEQPACKET");
        }
        // Programs that an engine may start have no business with it.
        fcntl(asked, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context("fcntl(F_SETFD)")?;
        // SAFETY: it is open, see above, and was given to this process to be its channel: nothing
        // else here owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn a_number_is_a_descriptor_and_all_else_a_path() {
        assert_eq!("7".parse(), Ok(Channel::Descriptor(7)));
        assert_eq!("./7".parse(), Ok(Channel::Path("./7".into())));
        assert_eq!("/run/x.sock".parse(), Ok(Channel::Path("/run/x.sock".into())));
    }

    #[test]
    fn only_an_open_packet_socket_is_taken() {
        let (one, _other) = downbeat_link::pair().unwrap();
        let number = one.into_raw_fd();
        assert_eq!(Channel::Descriptor(number).open().unwrap().as_raw_fd(), number);

        let error = |channel: Channel| format!("{:#}", channel.open().unwrap_err());
        assert!(error(Channel::Descriptor(1)).contains("above 2"));
        assert!(error(Channel::Descriptor(9999)).contains("not an open socket"));
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let told = error(Channel::Descriptor(stream.as_raw_fd()));
        assert!(told.contains("must be SOCK_SEQPACKET"), "{told}");
        let told = error(Channel::Path("/nowhere/at/all".into()));
        assert!(told.contains("no pool listens there"), "{told}");
    }
}
