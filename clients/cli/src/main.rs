//! `messenger`: the messenger on a command line, for people and (with `--json`) for scripts.

mod account;
mod app;
mod args;
mod attachments;
mod chat;
mod conversations;
mod failure;
mod groups;
mod home;
mod notifications;
mod password;
mod people;
mod replay;
mod terminal;
mod text;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    app::App,
    args::{Args, Command},
    terminal::Clock,
};

fn main() -> ExitCode {
    let args = Args::parse();
    // Before there are threads: the time zone cannot be asked for safely later.
    let clock = Clock::local();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failure::report(&error.into(), &args.global),
    };
    let outcome = runtime.block_on(run(&args, clock));
    // A thread that waits for a line of input must not keep the program alive.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => failure::report(&error, &args.global),
    }
}

async fn run(args: &Args, clock: Clock) -> anyhow::Result<ExitCode> {
    if let Command::Replay(replay) = &args.command {
        return replay::run(&args.global, replay).await;
    }
    let app = App::new(&args.global, clock)?;
    match &args.command {
        Command::Register(command) => account::register(&app, command).await?,
        Command::Login(command) => account::log_in(&app, command).await?,
        Command::Logout => account::log_out(&app).await?,
        Command::Whoami => account::whoami(&app).await?,
        Command::Devices => account::devices(&app).await?,
        Command::Search { prefix } => people::search(&app, prefix).await?,
        Command::Presence { names } => people::presence(&app, names).await?,
        Command::Conversations { limit } => conversations::list(&app, *limit).await?,
        Command::History { name, limit } => conversations::history(&app, name, *limit).await?,
        Command::Send { name, text } => conversations::send(&app, name, text).await?,
        Command::Attach { name, attach } => conversations::attach(&app, name, attach).await?,
        Command::Save { name, save } => conversations::save(&app, name, save).await?,
        Command::Picture { path, .. } => attachments::picture(&app, path.as_ref()).await?,
        Command::Chat { name, limit } => chat::run(&app, name, *limit).await?,
        Command::Notifications(command) => notifications::run(&app, command).await?,
        Command::Group(command) => groups::run(&app, command).await?,
        Command::Replay(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}
