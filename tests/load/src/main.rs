//! Measures a running server under one workload and prints its figures.
//!
//! The workloads have the names that requirement N13 uses; see README.md.

mod account;
mod allowance;
mod drive;
mod figures;
mod grow;
mod idle;
mod pairs;
mod process;
mod wire;

use std::{process::ExitCode, str::FromStr, time::Duration};

use anyhow::{Context, bail};
use clap::Parser;

/// One run.
#[derive(Parser, Debug)]
#[command(
    name = "load",
    about = "Measures a running server under one workload",
    version
)]
struct Args {
    /// pair-1, pairs-PxI (P pairs, I messages in flight each), idle-N, grow or grow-N
    workload: Workload,
    /// Where the server listens; several, divided by commas, share the sessions
    #[arg(
        long,
        env = "MESSENGER_SERVER",
        default_value = "http://127.0.0.1:7400",
        value_delimiter = ','
    )]
    server: Vec<String>,
    /// A file with a line `NAME PID` for each process whose CPU time counts as the server's: the
    /// local cluster writes one
    #[arg(long, value_name = "FILE")]
    processes: Option<std::path::PathBuf>,
    /// Print one JSON object instead of lines for people
    #[arg(long)]
    json: bool,
    /// Seconds that are measured (idle-N: that the sessions are held)
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seconds under load before measuring starts
    #[arg(long, default_value_t = 3)]
    warmup: u64,
    /// The server's process, if it is not the one on this machine that listens on the port
    #[arg(long)]
    server_pid: Option<u32>,
    /// Threads of this program; one is the cheapest as long as it is not the bottleneck
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// grow: sessions that send, half of them of each user
    #[arg(long, default_value_t = 2)]
    senders: usize,
    /// grow: messages in flight of each session
    #[arg(long, default_value_t = 32)]
    in_flight: usize,
}

/// What is done to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Workload {
    /// One user of each pair sends to the other, with so many messages waiting for their acks.
    Pairs { pairs: usize, in_flight: usize },
    /// Sessions that say nothing, each on a connection of its own.
    Idle { sessions: usize },
    /// One conversation that gets so many messages.
    Grow { messages: u64 },
}

/// Messages of `grow` without a number.
const GROW_MESSAGES: u64 = 1_000_000;

impl FromStr for Workload {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        let wrong = || format!("{name}: not one of pair-1, pairs-PxI, idle-N, grow, grow-N");
        let workload = if name == "pair-1" {
            Self::Pairs {
                pairs: 1,
                in_flight: 1,
            }
        } else if let Some((pairs, in_flight)) = name
            .strip_prefix("pairs-")
            .and_then(|rest| rest.split_once('x'))
        {
            Self::Pairs {
                pairs: pairs.parse().with_context(wrong)?,
                in_flight: in_flight.parse().with_context(wrong)?,
            }
        } else if let Some(sessions) = name.strip_prefix("idle-") {
            Self::Idle {
                sessions: sessions.parse().with_context(wrong)?,
            }
        } else if name == "grow" {
            Self::Grow {
                messages: GROW_MESSAGES,
            }
        } else if let Some(messages) = name.strip_prefix("grow-") {
            Self::Grow {
                messages: messages.parse().with_context(wrong)?,
            }
        } else {
            bail!(wrong());
        };
        match workload {
            Self::Pairs { pairs: 0, .. }
            | Self::Pairs { in_flight: 0, .. }
            | Self::Idle { sessions: 0 }
            | Self::Grow { messages: 0 } => bail!(wrong()),
            workload => Ok(workload),
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = if args.threads <= 1 {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    } else {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(args.threads)
            .enable_all()
            .build()
    };
    let outcome = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(&args)));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Prints the figures; answers whether the server did everything that was asked of it.
async fn run(args: &Args) -> anyhow::Result<bool> {
    let server_pid = match args.server_pid {
        Some(pid) => Some(pid),
        None => args
            .server
            .first()
            .and_then(|url| process::listening_on(url)),
    };
    let processes = match &args.processes {
        Some(file) => process::listed(file)?,
        None => Vec::new(),
    };
    let seconds = Duration::from_secs(args.seconds.max(1));
    let warmup = Duration::from_secs(args.warmup);
    match args.workload {
        Workload::Pairs { pairs, in_flight } => {
            let name = match (pairs, in_flight) {
                (1, 1) => "pair-1".to_owned(),
                _ => format!("pairs-{pairs}x{in_flight}"),
            };
            let plan = pairs::Plan {
                pairs,
                in_flight,
                warmup,
                seconds,
            };
            let figures = pairs::run(&args.server, server_pid, &processes, &name, &plan).await?;
            figures::print(&figures, args.json)?;
            Ok(figures.is_clean())
        }
        Workload::Idle { sessions } => {
            let figures = idle::run(&args.server, server_pid, sessions, seconds).await?;
            figures::print(&figures, args.json)?;
            Ok(figures.sessions_lost == 0)
        }
        Workload::Grow { messages } => {
            let plan = grow::Plan {
                messages,
                senders: args.senders,
                in_flight: args.in_flight,
            };
            let figures = grow::run(&args.server, server_pid, &plan).await?;
            figures::print(&figures, args.json)?;
            Ok(figures.errors.is_empty())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_read_from_its_name() {
        let parse = |name: &str| name.parse::<Workload>().ok();
        assert_eq!(
            parse("pair-1"),
            Some(Workload::Pairs {
                pairs: 1,
                in_flight: 1
            })
        );
        assert_eq!(
            parse("pairs-100x16"),
            Some(Workload::Pairs {
                pairs: 100,
                in_flight: 16
            })
        );
        assert_eq!(parse("idle-2000"), Some(Workload::Idle { sessions: 2_000 }));
        assert_eq!(
            parse("grow"),
            Some(Workload::Grow {
                messages: 1_000_000
            })
        );
        for wrong in [
            "",
            "pairs-0x1",
            "pairs-1",
            "idle-",
            "idle-x",
            "grow-0",
            "group-1",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
