//! The agent's command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;

/// Where the policy is where nobody says otherwise: what is shipped, and what overrides it.
pub const POLICY_DIRS: [&str; 2] = ["/usr/lib/downbeat/policy.d", "/etc/downbeat/policy.d"];

/// downbeat's agent: watches the kernel, the processes and the GPUs, and gives each thread the
/// place and the priority that the policy says.
///
/// Everything that it changes goes back when it stops; after a kill, `downbeat restore` does that.
#[derive(Clone, Debug, Parser)]
#[command(name = "downbeatd", version, max_term_width = 100)]
pub struct Cli {
    /// Folder with policy files (*.toml). Given several times, a file in a later folder replaces
    /// one of the same name in an earlier one [default: /usr/lib/downbeat/policy.d and
    /// /etc/downbeat/policy.d]
    #[arg(long, value_name = "DIR")]
    pub policy_dir: Vec<PathBuf>,

    /// Folder with the pool's workers (*.toml); without a file there, no pool is started
    #[arg(long, value_name = "DIR", default_value = "/etc/downbeat/pool.d")]
    pub pool_dir: PathBuf,

    /// Folder for the socket, the journal and the lock; one agent per folder
    #[arg(long, value_name = "DIR", default_value = downbeat_api::DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,

    /// Group whose members may look at what the agent shows on its socket
    #[arg(long, value_name = "GROUP", default_value = "downbeat")]
    pub read_group: String,

    /// Group whose members may also change what it does; to reach the socket, they are members of
    /// the other group as well
    #[arg(long, value_name = "GROUP", default_value = "downbeat-admin")]
    pub change_group: String,

    /// Address of the metrics server, or `off`
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9810")]
    pub listen: Address,

    /// Watch and show, and never change anything
    #[arg(long)]
    pub observe_only: bool,

    /// Do without kernel programs: a scan of /proc in place of events
    #[arg(long)]
    pub no_bpf: bool,

    /// The kernel's types (BTF, or a vmlinux with them), where /sys/kernel/btf/vmlinux is missing;
    /// the programs then attach to raw tracepoints
    #[arg(long, value_name = "FILE", conflicts_with = "no_bpf")]
    pub btf: Option<PathBuf>,

    /// Show what the kernel programs log, at this level and above
    #[arg(long, value_name = "LEVEL")]
    pub bpf_log: Option<log::Level>,

    /// The pool's program [default: downbeat-pool beside this one, else in PATH]
    #[arg(long, value_name = "FILE")]
    pub pool_bin: Option<PathBuf>,

    /// User that the pool runs as when the agent is root [default: downbeat, else nobody]
    #[arg(long, value_name = "USER")]
    pub pool_user: Option<String>,

    /// The pool's REST address, or `off` [default: the pool's own]
    #[arg(long, value_name = "ADDR")]
    pub pool_rest: Option<String>,

    /// The pool's gRPC address, or `off` [default: the pool's own]
    #[arg(long, value_name = "ADDR")]
    pub pool_grpc: Option<String>,

    /// The pool's Wyoming address, or `off` [default: the pool's own]
    #[arg(long, value_name = "ADDR")]
    pub pool_wyoming: Option<String>,
}

/// `HOST:PORT` or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// Nothing is listened on.
    Off,
    /// Listen there.
    At(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            address => address
                .parse()
                .map(Self::At)
                .map_err(|_| "neither an address like 127.0.0.1:9810 nor `off`".to_owned()),
        }
    }
}

impl Cli {
    /// The policy folders, the defaults where none were given.
    #[must_use]
    pub fn policy_dirs(&self) -> Vec<PathBuf> {
        if self.policy_dir.is_empty() {
            POLICY_DIRS.map(PathBuf::from).to_vec()
        } else {
            self.policy_dir.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_or_off() {
        assert_eq!("off".parse(), Ok(Address::Off));
        assert!(matches!("127.0.0.1:0".parse(), Ok(Address::At(_))));
        assert!("localhost".parse::<Address>().is_err());
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
