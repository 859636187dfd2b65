//! Measures a running server under one workload and prints its figures.
//!
//! The workloads have the names that requirement N13 uses; see README.md.

mod account;
mod allowance;
mod bare;
mod blobs;
mod drive;
mod figures;
mod groups;
mod grow;
mod idle;
mod mixed;
mod pairs;
mod process;
mod raw;
mod receive;
mod wire;
mod workload;

use std::{process::ExitCode, time::Duration};

use clap::Parser;

use crate::workload::Workload;

/// One run.
#[derive(Parser, Debug)]
#[command(
    name = "load",
    about = "Measures a running server under one workload",
    version
)]
struct Args {
    /// pair-1, pairs-PxI (P pairs, I messages in flight each), group-MxI (M members, I messages of one of
    /// them in flight), groups-mixed, idle-N, blobs-N, grow or grow-N
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
    /// group: milliseconds between an ack and the next message
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// group: every member reads each message at once, and says so
    #[arg(long)]
    reads: bool,
    /// groups-mixed: users
    #[arg(long, default_value_t = 10_000)]
    users: usize,
    /// groups-mixed: messages in flight, of all users together
    #[arg(long, default_value_t = 64)]
    mixed_in_flight: usize,
    /// blobs: a folder on the disk of the server's data, for what the disk itself does
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    folder: std::path::PathBuf,
    /// grow: messages in flight of each session
    #[arg(long, default_value_t = 32)]
    in_flight: usize,
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
        Workload::Group { members, in_flight } => {
            let name = format!("group-{members}x{in_flight}");
            let plan = groups::Plan {
                members,
                in_flight,
                pause: Duration::from_millis(args.pause_ms),
                habit: match args.reads {
                    true => receive::Habit::Read,
                    false => receive::Habit::Hold,
                },
                warmup,
                seconds,
            };
            let figures = groups::run(&args.server, server_pid, &processes, &name, &plan).await?;
            figures::print(&figures, args.json)?;
            Ok(figures.is_clean())
        }
        Workload::Mixed => {
            let plan = mixed::Plan {
                users: args.users,
                in_flight: args.mixed_in_flight,
                warmup,
                seconds,
            };
            let name = "groups-mixed";
            let figures = mixed::run(&args.server, server_pid, &processes, name, &plan).await?;
            figures::print(&figures, args.json)?;
            Ok(figures.is_clean())
        }
        Workload::BareServer => {
            bare::serve().await?;
            Ok(true)
        }
        Workload::Idle { sessions } => {
            let figures = idle::run(&args.server, server_pid, sessions, seconds).await?;
            figures::print(&figures, args.json)?;
            Ok(figures.sessions_lost == 0)
        }
        Workload::Blobs { uploads } => {
            let figures = blobs::run(&args.server, server_pid, uploads, &args.folder).await?;
            figures::print(&figures, args.json)?;
            Ok(true)
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
