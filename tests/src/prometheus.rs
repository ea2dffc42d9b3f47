//! A real Prometheus that scrapes a real agent and its pool, asked through its HTTP API.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::agent::{PATIENCE, die_with_this_thread};
use crate::processes::wait_until;

/// Its job's name in every series.
pub const JOB: &str = "downbeat";

/// Finds a program of Debian's `prometheus` package.
///
/// # Errors
/// When it is not in PATH; with the command that installs it.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .with_context(|| {
            format!("no {name} in PATH: apt-get install -y --no-install-recommends prometheus")
        })
}

/// A port of 127.0.0.1 that was free a moment ago.
///
/// # Errors
/// The kernel's reason.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("binding a port")?;
    listener.local_addr().context("the bound port")
}

/// A running Prometheus with its own storage; gone when dropped.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts one that scrapes the targets each second and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed or does not answer in time; with the end of its log.
    pub fn scraping(targets: &[SocketAddr]) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for Prometheus")?;
        let config = folder.path().join("prometheus.yml");
        let targets: Vec<_> = targets.iter().map(|target| format!("\"{target}\"")).collect();
        let targets = targets.join(", ");
        let text = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
             scrape_configs:\n  - job_name: {JOB}\n    static_configs:\n      - targets: [{targets}]\n"
        );
        fs::write(&config, text).context("writing its configuration")?;
        let address = free_address()?;
        let log = fs::File::create(folder.path().join("log")).context("its log")?;
        let mut command = Command::new(program("prometheus")?);
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        die_with_this_thread(&mut command, Signal::SIGKILL);
        let child = command.spawn().context("prometheus: starting it")?;
        let server = Self { child, address, folder };
        let ready = || get(server.address, "/-/ready").is_ok_and(|(status, _)| status == 200);
        ensure!(wait_until(PATIENCE, ready), "prometheus does not answer:\n{}", server.log());
        Ok(server)
    }

    /// Waits until `count` scrapes of each target succeeded.
    ///
    /// # Errors
    /// When they do not come in time, or Prometheus could not read what the agent sent.
    pub fn wait_for_scrapes(&self, count: u32) -> Result<()> {
        let enough = || {
            self.query(&format!("min(sum_over_time(up{{job=\"{JOB}\"}}[5m])) >= {count}"))
                .is_ok_and(|found| !found.is_empty())
        };
        let came = wait_until(PATIENCE, enough);
        let (_, targets) = get(self.address, "/api/v1/targets")?;
        let targets: Value = serde_json::from_str(&targets).context("its targets")?;
        let active = targets["data"]["activeTargets"].as_array().map_or(&[][..], Vec::as_slice);
        let well = |target: &Value| target["lastError"].as_str() == Some("");
        ensure!(
            came && !active.is_empty() && active.iter().all(well),
            "scraping fails: {targets:#}"
        );
        Ok(())
    }

    /// The values of an instant query now, one per series.
    ///
    /// # Errors
    /// When Prometheus refuses the query; with its reason.
    pub fn query(&self, query: &str) -> Result<Vec<f64>> {
        let (status, body) = get(self.address, &format!("/api/v1/query?query={}", encoded(query)))?;
        let answer: Value =
            serde_json::from_str(&body).with_context(|| format!("{status} to {query}: {body}"))?;
        if answer["status"] != "success" {
            bail!("{query}: {}", answer["error"]);
        }
        let series = answer["data"]["result"].as_array().context("no result")?;
        series
            .iter()
            .map(|series| {
                let value = series["value"][1].as_str().context("a series without a value")?;
                value.parse().with_context(|| format!("{query}: the value {value}"))
            })
            .collect()
    }

    /// What it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body of what `address` answers for `target`. By HTTP 1.0, so that the answer comes in one
/// piece and the connection ends with it.
///
/// # Errors
/// When nobody answers there, or not by HTTP.
pub fn get(address: SocketAddr, target: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {target} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("half an answer")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.context("no status")?, body.to_owned()))
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            // Writing into a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}
