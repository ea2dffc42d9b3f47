//! Who is at the other end of a socket, and what they may do: the agent's and the pool's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Group, geteuid};

/// Most groups that the kernel gives a process (`NGROUPS_MAX`).
const MOST_GROUPS: usize = 65_536;

/// Groups that are asked for at first; hardly anybody has more.
const FEW_GROUPS: usize = 64;

/// The process that connected, as it was at that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Effective user.
    pub uid: u32,
    /// Effective group and all others.
    pub groups: Vec<u32>,
}

/// What a peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Nothing.
    None,
    /// Look.
    Read,
    /// Look, and change what the agent or the pool does.
    Change,
}

/// Whose members may do what. Root and the server's own user may do everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// The server's own user.
    own: u32,
    /// Name and id of the group that may read.
    read: Option<(String, u32)>,
    /// Name and id of the group that may change.
    change: Option<(String, u32)>,
}

impl Rights {
    /// Looks up the two groups of this host; one that does not exist has no members.
    #[must_use]
    pub fn of_groups(read: &str, change: &str) -> Self {
        let find = |name: &str| {
            let group = Group::from_name(name).ok().flatten()?;
            Some((name.to_owned(), group.gid.as_raw()))
        };
        Self { own: geteuid().as_raw(), read: find(read), change: find(change) }
    }

    /// The group that the socket belongs to.
    #[must_use]
    pub fn readers(&self) -> Option<u32> {
        self.read.as_ref().map(|(_, gid)| *gid)
    }

    /// Whether a peer is root or the server's own user, for whom places are kept.
    #[must_use]
    pub fn is_own(&self, peer: &Peer) -> bool {
        peer.uid == 0 || peer.uid == self.own
    }

    /// What a peer may do.
    #[must_use]
    pub fn of(&self, peer: &Peer) -> Right {
        let in_group = |group: &Option<(String, u32)>| {
            group.as_ref().is_some_and(|(_, gid)| peer.groups.contains(gid))
        };
        if self.is_own(peer) || in_group(&self.change) {
            Right::Change
        } else if in_group(&self.read) {
            Right::Read
        } else {
            Right::None
        }
    }

    /// Who may change something, for a person who may not.
    #[must_use]
    pub fn who_changes(&self) -> String {
        match &self.change {
            Some((name, _)) => format!("root, the server's own user and the group {name}"),
            None => "root and the server's own user".to_owned(),
        }
    }

    /// Who may do what, for a person.
    #[must_use]
    pub fn words(&self) -> String {
        let read = match &self.read {
            Some((name, _)) => format!("group {name} may look"),
            None => "nobody else may look".to_owned(),
        };
        format!("{} may change; {read}", self.who_changes())
    }
}

impl Peer {
    /// The process that connected this stream.
    ///
    /// # Errors
    /// As getsockopt(2).
    pub fn of(stream: &impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(stream, PeerCredentials)?;
        let mut groups = peer_groups(stream.as_fd())?;
        groups.push(credentials.gid());
        Ok(Self { uid: credentials.uid(), groups })
    }
}

/// The supplementary groups of a stream's peer (`SO_PEERGROUPS`, Linux 4.13).
fn peer_groups(stream: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; FEW_GROUPS];
    loop {
        let mut length =
            libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `length` bytes into `groups`, which has that many, and
        // the bytes that it needs into `length`; every bit pattern is a gid.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        let grows = groups.len() < count && count <= MOST_GROUPS;
        if error.raw_os_error() != Some(libc::ERANGE) || !grows {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights() -> Rights {
        let group = |name: &str, gid| Some((name.to_owned(), gid));
        Rights { own: 990, read: group("downbeat", 50), change: group("downbeat-admin", 60) }
    }

    fn peer(uid: u32, groups: &[u32]) -> Peer {
        Peer { uid, groups: groups.to_vec() }
    }

    #[test]
    fn looking_and_changing_are_two_rights() {
        let of = |uid, groups: &[u32]| rights().of(&peer(uid, groups));
        assert_eq!(of(1000, &[1000]), Right::None);
        assert_eq!(of(1000, &[1000, 50]), Right::Read);
        assert_eq!(of(1000, &[1000, 60]), Right::Change);
        assert_eq!(of(0, &[]), Right::Change);
        assert_eq!(of(990, &[]), Right::Change);
    }

    #[test]
    fn a_group_that_does_not_exist_has_no_members() {
        let rights = Rights::of_groups("no-such-group-here", "nor-this-one");
        assert_eq!(rights.readers(), None);
        assert_eq!(rights.of(&peer(4_000_000_000, &[0, 1, 2])), Right::None);
        assert!(rights.words().contains("nobody else may look"));
    }

    #[test]
    fn a_peer_is_known_with_its_groups() {
        let (own, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Peer::of(&own).unwrap();
        assert_eq!(peer.uid, geteuid().as_raw());
        assert!(peer.groups.contains(&nix::unistd::getegid().as_raw()));
        for group in nix::unistd::getgroups().unwrap() {
            assert!(peer.groups.contains(&group.as_raw()));
        }
    }
}
