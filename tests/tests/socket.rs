//! The agent's socket against people who may not, ask too much, or talk nonsense.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use downbeat_api::{LONGEST_REQUEST, Request, Response, SOCKET_NAME};
use downbeat_tests::agent::{Agent, Place};
use downbeat_tests::skip::root_or_skip;
use nix::unistd::Group;

/// A user of no special rights; hosts know it as nobody, and need not.
const STRANGER: u32 = 65_534;

/// Groups that every host has, in the places of `downbeat` and `downbeat-admin`.
const READERS: &str = "nogroup";
const CHANGERS: &str = "daemon";

struct Scene {
    _place: Place,
    agent: Agent,
    socket: PathBuf,
    readers: u32,
    changers: u32,
}

/// Nothing where this host has not the groups.
fn scene() -> Result<Option<Scene>> {
    let gid =
        |name| Ok::<_, anyhow::Error>(Group::from_name(name)?.map(|group| group.gid.as_raw()));
    let (Some(readers), Some(changers)) = (gid(READERS)?, gid(CHANGERS)?) else {
        eprintln!("skipped: no groups {READERS} and {CHANGERS} on this host");
        return Ok(None);
    };
    let place = Place::new()?;
    let agent = place.start(&["--read-group", READERS, "--change-group", CHANGERS])?;
    let socket = place.run_dir().join(SOCKET_NAME);
    Ok(Some(Scene { _place: place, agent, socket, readers, changers }))
}

/// Runs `body` on a thread that is another user with these groups. The kernel keeps a user per
/// thread; the library would change all of them.
fn as_user<T: Send>(uid: u32, groups: &[u32], body: impl FnOnce() -> T + Send) -> Result<T> {
    let become_user = move || {
        let own = *groups.first().unwrap_or(&uid);
        // SAFETY: three system calls that change this thread alone; `groups` has that many entries.
        let results = unsafe {
            [
                libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
                libc::syscall(libc::SYS_setresgid, own, own, own),
                libc::syscall(libc::SYS_setresuid, uid, uid, uid),
            ]
        };
        ensure!(results == [0; 3], "becoming uid {uid}: {}", std::io::Error::last_os_error());
        Ok(body())
    };
    thread::scope(|scope| match scope.spawn(become_user).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// A line and its answer.
fn exchange(stream: &mut UnixStream, line: &[u8]) -> Result<Response> {
    stream.write_all(line)?;
    answer(stream)
}

fn answer(stream: &UnixStream) -> Result<Response> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).context("waiting for an answer")?;
    ensure!(!line.is_empty(), "closed without an answer");
    Ok(serde_json::from_str(&line)?)
}

fn refusal(response: Response) -> Result<String> {
    match response {
        Response::Error { message } => Ok(message),
        other => bail!("expected a refusal, got {other:?}"),
    }
}

fn line(request: &Request) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    Ok(line)
}

#[test]
fn looking_and_changing_are_two_rights() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let Some(scene) = scene()? else { return Ok(()) };
    let found = std::fs::metadata(&scene.socket)?;
    ensure!(found.gid() == scene.readers && found.permissions().mode() & 0o777 == 0o660);

    let host = line(&Request::Host)?;
    let changes = [
        Request::Pause,
        Request::Resume,
        Request::Reload,
        Request::Set { pid: 1, class: "voice".into(), seconds: None },
        Request::Release { pid: 1 },
    ];
    // A stranger does not get through the door.
    let connected = as_user(STRANGER, &[STRANGER + 1], || UnixStream::connect(&scene.socket))?;
    ensure!(connected.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied));
    // And where the door stands open, is told so.
    std::fs::set_permissions(&scene.socket, std::fs::Permissions::from_mode(0o666))?;
    let told = as_user(STRANGER, &[STRANGER + 1], || {
        refusal(answer(&UnixStream::connect(&scene.socket)?)?)
    })??;
    ensure!(told.contains("may not use this socket") && told.contains(READERS), "{told}");
    std::fs::set_permissions(&scene.socket, std::fs::Permissions::from_mode(0o660))?;

    let read = as_user(1000, &[1000, scene.readers], || {
        let mut stream = UnixStream::connect(&scene.socket)?;
        for request in &changes {
            let told = refusal(exchange(&mut stream, &line(request)?)?)?;
            ensure!(told.contains("may look and not change"), "{request:?}: {told}");
            ensure!(told.contains(CHANGERS), "{told}");
        }
        exchange(&mut stream, &host)
    })??;
    ensure!(matches!(read, Response::Host(_)));

    let changed = as_user(1000, &[1000, scene.readers, scene.changers], || {
        exchange(&mut UnixStream::connect(&scene.socket)?, &line(&Request::Pause)?)
    })??;
    ensure!(matches!(changed, Response::Done { .. }), "{changed:?}");
    Ok(())
}

#[test]
fn nonsense_is_answered_and_half_a_line_keeps_nobody_out() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let Some(scene) = scene()? else { return Ok(()) };
    let deep = [&b"["[..]].concat().repeat(4000);
    let nonsense: Vec<Vec<u8>> = vec![
        b"\n".to_vec(),
        b"\0\xff\xfe\n".to_vec(),
        b"{\"op\":\"nothing of that name\"}\n".to_vec(),
        b"{\"op\":\"explain\"}\n".to_vec(),
        b"{\"op\":\"explain\",\"pid\":-1}\n".to_vec(),
        b"{\"op\":\"explain\",\"pid\":1e400}\n".to_vec(),
        b"{\"op\":\"explain\",\"pid\":99999999999999999999999}\n".to_vec(),
        b"{\"op\":\"set\",\"pid\":1,\"class\":\"x\",\"seconds\":18446744073709551615}\n".to_vec(),
        b"{\"op\":\"set\",\"pid\":1,\"class\":null}\n".to_vec(),
        [deep, b"\n".to_vec()].concat(),
    ];
    let mut stream = UnixStream::connect(&scene.socket)?;
    for line in &nonsense {
        let told = refusal(exchange(&mut stream, line)?)?;
        ensure!(!told.is_empty(), "{line:?}");
    }
    ensure!(matches!(exchange(&mut stream, &line(&Request::Host)?)?, Response::Host(_)));

    // A line that never ends is answered and cut off.
    let mut endless = UnixStream::connect(&scene.socket)?;
    endless.set_read_timeout(Some(Duration::from_secs(20)))?;
    endless.write_all(&vec![b'x'; 4 * LONGEST_REQUEST as usize])?;
    let mut told = String::new();
    let mut endless = BufReader::new(endless);
    endless.read_line(&mut told)?;
    ensure!(told.contains("a request of more than 4096 bytes"), "{told:?}");
    let end = endless.read(&mut [0; 64]);
    ensure!(!matches!(end, Ok(1..)), "{end:?}");

    // Half lines, and a client that goes in the middle of one.
    for half in [&b"{\"op\":\"sn"[..], b"{", b"\xf0\x9f"] {
        let mut stream = UnixStream::connect(&scene.socket)?;
        stream.write_all(half)?;
    }
    scene.agent.snapshot().map(drop)
}

#[test]
fn a_flood_keeps_neither_root_nor_other_users_out() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let Some(scene) = scene()? else { return Ok(()) };
    let groups = [STRANGER, scene.readers];
    // All places that one user can have, each with half a line, and requests as fast as they go.
    let mut held = as_user(STRANGER, &groups, || {
        let mut held = Vec::new();
        loop {
            let mut stream = UnixStream::connect(&scene.socket)?;
            stream.set_read_timeout(Some(Duration::from_millis(300)))?;
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(1..) => break,
                Ok(0) => bail!("closed without a word"),
                Err(_) => held.push(stream),
            }
            ensure!(held.len() < 64, "no end of places for one user");
        }
        anyhow::Ok(held)
    })??;
    ensure!(held.len() >= 8, "{} places", held.len());

    let asked = as_user(1000, &[1000, scene.readers], || {
        exchange(&mut UnixStream::connect(&scene.socket)?, &line(&Request::Host)?)
    })??;
    ensure!(matches!(asked, Response::Host(_)), "another user has places of its own");
    scene.agent.snapshot()?;

    // More than its pace is slowed down, and refused where it does not stop.
    let start = Instant::now();
    let burst = line(&Request::Host)?.repeat(100);
    for stream in &mut held {
        // One that was refused meanwhile is closed.
        let _ = stream.write_all(&burst);
    }
    // Root's questions are answered meanwhile.
    let asked = Instant::now();
    scene.agent.snapshot()?;
    ensure!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    thread::sleep(Duration::from_secs(3));
    let (mut answered, mut refused) = (0_u32, 0_u32);
    for stream in &held {
        stream.set_read_timeout(Some(Duration::from_millis(1)))?;
        // Up to what has not come yet.
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            match serde_json::from_str(&line)? {
                Response::Host(_) => answered += 1,
                Response::Error { message } if message.contains("asks too much") => refused += 1,
                other => bail!("{other:?}"),
            }
        }
    }
    let most = 60 + 20 * (start.elapsed().as_secs() as u32 + 1);
    ensure!(answered <= most, "{answered} answered within {:?}", start.elapsed());
    ensure!(refused > 0, "{answered} answered and none refused");
    Ok(())
}
