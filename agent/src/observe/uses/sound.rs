//! Who is connected to a sound server.
//!
//! A client's end of a Unix connection has no name; the server's end has that of the socket it
//! listens on, and the kernel tells which end belongs to which (`sock_diag(7)`). It tells of the
//! agent's own network namespace alone: a container with one of its own is not seen here.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::unix::nlas::{Nla, UnixDiagName};
use netlink_packet_sock_diag::unix::{ShowFlags, StateFlags, UnixRequest, UnixResponse};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// One answer of the kernel; it fills up to 32 KiB at a time.
const ANSWER: usize = 64 << 10;

/// The inodes of both ends of every connection to PipeWire or PulseAudio.
///
/// # Errors
/// When the kernel was built without `CONFIG_UNIX_DIAG`, or the socket is refused.
pub fn connections() -> io::Result<HashSet<u64>> {
    let socket = open()?;
    let mut found = HashSet::new();
    let mut buffer = vec![0; ANSWER];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        if rest.is_empty() {
            return Ok(found);
        }
        while !rest.is_empty() {
            // The length that the message gives itself, rounded up to the next.
            let Some((bytes, next)) = split(rest) else { break };
            rest = next;
            // A name that is no path costs its own socket alone.
            let Ok(message) = NetlinkMessage::<SockDiagMessage>::deserialize(bytes) else {
                continue;
            };
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::UnixResponse(of)) => {
                    found.extend(ends(&of));
                }
                _ => {}
            }
        }
    }
}

/// Asks for every connection with its name and its other end.
fn open() -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    // The kernel answers within the call; this is for a kernel that does not.
    setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(200))?;
    let request = UnixRequest {
        state_flags: StateFlags::ESTABLISHED,
        inode: 0,
        show_flags: ShowFlags::NAME | ShowFlags::PEER,
        cookie: [0xff; 8],
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::UnixRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    send(socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
    Ok(socket)
}

/// The first message and those after it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    let length = u32::from_ne_bytes(length) as usize;
    // A length below that of a header would never end.
    let first = bytes.get(..length).filter(|first| first.len() >= 16)?;
    Some((first, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// Both ends of a connection, where this is the server's end of one to a sound server.
fn ends(of: &UnixResponse) -> impl Iterator<Item = u64> + use<> {
    let is_sound = of.nlas.iter().any(|nla| match nla {
        Nla::Name(UnixDiagName::Pathname(path)) => path.to_str().is_some_and(is_sound_server),
        _ => false,
    });
    let peer = of.nlas.iter().find_map(|nla| match nla {
        Nla::Peer(inode) => Some(*inode),
        _ => None,
    });
    let own = of.header.inode;
    is_sound.then_some([Some(own), peer]).into_iter().flatten().flatten().map(u64::from)
}

/// `/run/user/1000/pipewire-0`, `pipewire-0-manager`, `/run/user/1000/pulse/native`.
fn is_sound_server(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let pipewire = name.strip_prefix("pipewire-").is_some_and(|rest| {
        rest.strip_suffix("-manager").unwrap_or(rest).bytes().all(|byte| byte.is_ascii_digit())
    });
    pipewire || (name == "native" && folder.ends_with("/pulse"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn inode(stream: &UnixStream) -> u64 {
        let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
        std::fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn both_ends_of_a_connection_to_a_sound_server_are_found() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pulse")).unwrap();
        let mut ends = Vec::new();
        for (name, is_sound) in [("pipewire-0", true), ("pulse/native", true), ("other-0", false)] {
            let path = folder.path().join(name);
            let listener = UnixListener::bind(&path).unwrap();
            let client = UnixStream::connect(&path).unwrap();
            let (server, _) = listener.accept().unwrap();
            ends.push((name, is_sound, client, server));
        }
        let found = connections().unwrap();
        for (name, is_sound, client, server) in ends {
            assert_eq!(found.contains(&inode(&client)), is_sound, "{name}, client");
            assert_eq!(found.contains(&inode(&server)), is_sound, "{name}, server");
        }
    }

    #[test]
    fn sound_servers_are_known_by_their_sockets() {
        for (path, expected) in [
            ("/run/user/1000/pipewire-0", true),
            ("/run/user/1000/pipewire-0-manager", true),
            ("/run/user/1000/pipewire-11", true),
            ("/run/pulse/native", true),
            ("/run/user/1000/native", false),
            ("/run/user/1000/pipewire-0.lock", false),
            ("/run/user/1000/bus", false),
        ] {
            assert_eq!(is_sound_server(path), expected, "{path}");
        }
    }
}
