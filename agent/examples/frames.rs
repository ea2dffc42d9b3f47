//! Marks its frames for downbeat: `frames [SOCKET [FRAMES]]`. See `docs/frames.md`.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

/// Sends marks to downbeat. Never waits, and nothing happens when nobody listens.
struct Marks {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Marks {
    fn new(path: PathBuf) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path })
    }

    fn begin(&self, name: &str, deadline: Duration) {
        self.send(&format!("DEADLINE_NS={}\nFRAME_BEGIN={name}", deadline.as_nanos()));
    }

    fn end(&self, name: &str) {
        self.send(&format!("FRAME_END={name}"));
    }

    fn send(&self, text: &str) {
        // A frame is worth more than its mark.
        let _ = self.socket.send_to(text.as_bytes(), &self.path);
    }
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_else(|| "/run/downbeat/frames.sock".into());
    let frames: u32 = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(500);
    let marks = Marks::new(path.into())?;
    for number in 0..frames {
        let name = number.to_string();
        marks.begin(&name, Duration::from_millis(10));
        std::thread::sleep(Duration::from_millis(2)); // The work of a frame.
        marks.end(&name);
        std::thread::sleep(Duration::from_millis(18));
    }
    Ok(())
}
