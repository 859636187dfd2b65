//! `cargo run --release -p robustness`: see README.md.

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use robustness::{
    check,
    deployment::{Clustered, ClusteredOptions, Deployment, Embedded, EmbeddedOptions},
    fault::{Action, Named, catalogue},
    plan::Size,
    recorder,
    run::{self, Report, Task},
};
use tokio_util::sync::CancellationToken;

/// Traffic through the SDK, faults, and a judge of what was seen.
#[derive(Parser, Debug)]
#[command(name = "robustness", version, about)]
struct Args {
    /// What is judged
    #[arg(long, value_enum, default_value = "embedded")]
    deployment: Kind,
    /// all, none, or names with commas between them; `--list` shows the names
    #[arg(long, default_value = "all")]
    faults: String,
    /// How long there is traffic
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Decides operations and faults; random if it is not given, and always printed
    #[arg(long)]
    seed: Option<u64>,
    /// Print one JSON object instead of lines for people
    #[arg(long)]
    json: bool,
    /// Keep the history also of a good run
    #[arg(long)]
    keep: bool,
    /// Where the histories of runs go
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Messages a second, over all devices
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// Accounts
    #[arg(long, default_value_t = 40)]
    users: u16,
    /// Devices of each account
    #[arg(long, default_value_t = 2)]
    devices_per_user: u16,
    /// Direct conversations
    #[arg(long, default_value_t = 80)]
    conversations: u16,
    /// Groups, of users of their own
    #[arg(long, default_value_t = 3)]
    groups: u16,
    /// Kafka brokers of a cluster: 1, or 3 that replicate
    #[arg(long, default_value_t = 1)]
    brokers: usize,
    /// Processes of messaging of a cluster
    #[arg(long, default_value_t = 2)]
    messaging: usize,
    /// Show the names of the faults, and do nothing
    #[arg(long)]
    list: bool,
    /// Judge a kept history again, and do nothing else
    #[arg(long, value_name = "DIR")]
    check: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// The server in one process, on embedded storage
    Embedded,
    /// Several processes, on Kafka and PostgreSQL
    Cluster,
}

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| "warn,robustness=info".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(perform(&args)));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("robustness: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn perform(args: &Args) -> anyhow::Result<bool> {
    if let Some(folder) = &args.check {
        let records = recorder::read(folder)?;
        let verdict = check::judge(&records);
        for (wrong, what) in &verdict.examples {
            eprintln!("{}: {what}", wrong.name());
        }
        let report = run::report(&records, &verdict);
        print(&report, args.json)?;
        return Ok(report.is_good());
    }
    let started = Instant::now();
    let seed = args.seed.unwrap_or_else(rand::random);
    // First of all, so that it is known however the run ends.
    eprintln!("robustness: seed {seed}");
    let folder = args.folder.clone().unwrap_or_else(std::env::temp_dir);
    let folder = folder.join(format!("robustness-{seed}-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    let servers = tempfile::tempdir()?;
    let options = EmbeddedOptions {
        clock: is_asked(args, Action::ClockJump),
        disk: is_asked(args, Action::DiskFull),
    };
    let deployment: Arc<dyn Deployment> = match args.deployment {
        Kind::Embedded => Arc::new(Embedded::start(servers.path(), options).await?),
        Kind::Cluster => {
            let options = ClusteredOptions {
                brokers: args.brokers,
                messaging: args.messaging,
                clock: options.clock,
            };
            Arc::new(Clustered::start(options).await?)
        }
    };
    let all = catalogue(&*deployment);
    if args.list {
        all.iter().for_each(|fault| println!("{}", fault.name()));
        return Ok(true);
    }
    let task = Task {
        seed,
        lasts: Duration::from_secs(args.seconds),
        size: Size {
            users: args.users,
            devices_per_user: args.devices_per_user,
            conversations: args.conversations,
            groups: args.groups,
            rate: args.rate,
        },
        faults: chosen(&args.faults, all)?,
    };
    let stop = CancellationToken::new();
    tokio::spawn({
        let stop = stop.clone();
        async move {
            // The first Ctrl-C ends the traffic; what was seen is judged all the same.
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.cancel();
            }
        }
    });
    let mut report = run::run(deployment.clone(), &task, &folder, stop).await?;
    report.seconds = started.elapsed().as_secs_f64();
    for (node, log) in deployment.logs() {
        // What a server said is a part of what was seen.
        let _ = fs::copy(log, folder.join(format!("{node}.log")));
    }
    if report.is_good() && !args.keep {
        fs::remove_dir_all(&folder)?;
        report.history = None;
    } else {
        let findings = fs::read_to_string(folder.join(run::FINDINGS_FILE))?;
        findings
            .lines()
            .take(20)
            .for_each(|line| eprintln!("{line}"));
    }
    print(&report, args.json)?;
    Ok(report.is_good())
}

/// Whether faults of this kind are among those asked for.
fn is_asked(args: &Args, action: Action) -> bool {
    let is_named = |name: &str| name.starts_with(action.word());
    args.faults == "all" || args.faults.split(',').any(is_named)
}

fn chosen(names: &str, all: Vec<Named>) -> anyhow::Result<Vec<Named>> {
    match names {
        "all" => Ok(all),
        "none" => Ok(Vec::new()),
        names => names
            .split(',')
            .map(|name| {
                let fault = all.iter().find(|fault| fault.name() == name).cloned();
                fault.with_context(|| format!("no fault {name}; --list shows the names"))
            })
            .collect(),
    }
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(report)?);
        return Ok(());
    }
    println!("{}", serde_json::to_string_pretty(report)?);
    Ok(())
}
