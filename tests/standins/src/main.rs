//! Runs one of them, for a person to look at.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};
use standins::{ApnsStandIn, Delays, FcmStandIn, StandIn, WebPushStandIn};

/// Stands in for a provider of pushes on 127.0.0.1, knows every device, and tells what came
#[derive(Parser)]
struct Options {
    /// Whom
    provider: Name,
    /// Where it listens; 0 = a free port
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Where the credential is written that it believes (apns: the .p8 file, fcm: the service account)
    #[arg(long)]
    credential: Option<PathBuf>,
    /// Milliseconds that each answer takes
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    Apns,
    Fcm,
    WebPush,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let usual = Duration::from_millis(options.delay_ms);
    match options.provider {
        Name::Apns => {
            let apple = ApnsStandIn::start_at(options.port).await?;
            write(&options, apple.key_pem())?;
            let (key, team) = (standins::apns::KEY_ID, standins::apns::TEAM_ID);
            println!("key_id = \"{key}\", team_id = \"{team}\"");
            watch(&apple, usual).await
        }
        Name::Fcm => {
            let google = FcmStandIn::start_at(options.port).await?;
            write(&options, &google.service_account_json())?;
            watch(&google, usual).await
        }
        Name::WebPush => watch(&*WebPushStandIn::start_at(options.port).await?, usual).await,
    }
}

fn write(options: &Options, credential: &str) -> std::io::Result<()> {
    match &options.credential {
        Some(path) => std::fs::write(path, credential),
        None => Ok(()),
    }
}

async fn watch(stand_in: &StandIn, usual: Duration) -> anyhow::Result<()> {
    println!("{}", stand_in.url());
    stand_in.devices().take_all();
    stand_in.delay(Delays {
        usual,
        ..Delays::default()
    });
    let mut before = stand_in.devices().totals();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let totals = stand_in.devices().totals();
        if totals != before {
            println!("{totals:?}, connections: {}", stand_in.connections());
            before = totals;
        }
    }
}
