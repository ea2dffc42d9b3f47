//! `downbeat-worker`: one built-in model worker of downbeat's pool.

mod clock;
mod denoise;
mod engine;
mod live;
mod meter;
mod notify;
mod serve;
mod wav;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use serve::Channel;

/// One built-in model worker of downbeat's pool.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    job: Job,
}

#[derive(Debug, Subcommand)]
enum Job {
    /// Serves models to a pool, which says which ones: ONNX files by tract or ONNX Runtime, and `denoise`.
    Serve {
        /// The pool's channel (SOCK_SEQPACKET): the number of an open descriptor, or a socket's path.
        #[arg(long, value_name = "FD|SOCKET")]
        channel: Channel,
        /// Name in messages.
        #[arg(long, default_value = "worker")]
        name: String,
    },
    /// Removes noise from speech: RNNoise's weights, 48 kHz, frames of 10 ms.
    #[command(arg_required_else_help = true)]
    Denoise {
        /// Denoise the file IN (48 kHz, 16-bit integer or 32-bit float) to the file OUT.
        #[arg(long, num_args = 2, value_names = ["IN", "OUT"], required_unless_present = "listen")]
        wav: Option<Vec<PathBuf>>,
        /// Serve live streams on a Unix SOCK_SEQPACKET socket.
        #[arg(long, value_name = "SOCKET", conflicts_with = "wav")]
        listen: Option<PathBuf>,
        /// Name in messages.
        #[arg(long, default_value = "denoise", requires = "listen")]
        name: String,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().job {
        Job::Serve { channel, name } => serve::serve(&channel, &name),
        Job::Denoise { wav, listen, name } => match (wav.as_deref(), listen) {
            (Some([input, output]), _) => {
                wav::denoise_file(input, output).map(|summary| eprintln!("{summary}"))
            }
            (_, Some(socket)) => live::serve(&socket, &name),
            (_, None) => {
                Err(anyhow::anyhow!("nothing to do: give --wav IN OUT or --listen SOCKET"))
            }
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("downbeat-worker: {error:#}");
            ExitCode::FAILURE
        }
    }
}
