//! `cargo run --release`: the whole messenger in one process, on embedded storage.

use std::time::Duration;

use clap::Parser;
use runtime::{shutdown, telemetry};
use standalone::{Options, demo};

/// The system's allocator keeps the memory of every password hash in one of many arenas: 1.6 GB after
/// some thousand log-ins, measured.
#[cfg(not(feature = "system-allocator"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long what is open may take to end after a signal; then it is cut. What was acknowledged is on
/// the disk long before.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    telemetry::init("warn,standalone=info");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(options))
}

async fn run(options: Options) -> anyhow::Result<()> {
    let server = standalone::start(options.config()?).await?;
    println!("{}", server.greeting());
    if options.demo {
        demo::play(&server.url()).await?;
    }
    shutdown::signal().await?;
    println!("stopping");
    server.stop(STOP_DEADLINE).await;
    Ok(())
}
