//! Accounts and devices: register, log in, log out, who am I, where.

use console::Style;
use messenger_client::{
    Client, Error, ErrorReason, FileTokens, LogIn, NewAccount, TokenStore, model::Profile,
};
use serde_json::json;

use crate::{
    app::App,
    args,
    home::{AccountHome, username},
    password::{self, Ask},
    terminal::clean,
};

/// Letters of a host name that the name of a device keeps (profile.proto: 64 in all).
const HOST_CHARS_MAX: usize = 40;

pub(crate) async fn register(app: &App, command: &args::Register) -> anyhow::Result<()> {
    let home = app.home.account_named(&command.name)?;
    let client = app.anonymous()?;
    let account = NewAccount {
        username: username(&command.name)?,
        password: password::obtain(&command.password, Ask::Twice)?,
        display_name: command.display_name.clone(),
        device_name: device_name(),
    };
    let profile = client.register(account).await?;
    keep(app, &client, &home).await?;
    welcome(app, &client, &profile, "registered").await
}

pub(crate) async fn log_in(app: &App, command: &args::LogIn) -> anyhow::Result<()> {
    let home = app.home.account_named(&command.name)?;
    let client = app.anonymous()?;
    let known = FileTokens::new(home.tokens()).load().await.ok().flatten();
    let mut log_in = LogIn {
        username: home.username.clone(),
        password: password::obtain(&command.password, Ask::Once)?,
        device_name: device_name(),
        device_id: known.map(|known| known.device_id).unwrap_or_default(),
    };
    let mut answer = client.log_in(log_in.clone()).await;
    // The device of before was logged out, or belongs to a server that began anew.
    let is_forgotten = |error: &Error| {
        matches!(
            error.reason(),
            ErrorReason::DeviceNotFound | ErrorReason::DeviceRevoked
        )
    };
    if answer.as_ref().is_err_and(is_forgotten) && !log_in.device_id.is_empty() {
        log_in.device_id.clear();
        answer = client.log_in(log_in).await;
    }
    let profile = answer?;
    keep(app, &client, &home).await?;
    welcome(app, &client, &profile, "logged in").await
}

/// Nothing is written before it is known to be good.
async fn keep(app: &App, client: &Client, home: &AccountHome) -> anyhow::Result<()> {
    let credentials = client.credentials().await?;
    home.create()?;
    FileTokens::new(home.tokens()).save(&credentials).await?;
    app.home.set_current(home)
}

async fn welcome(app: &App, client: &Client, profile: &Profile, what: &str) -> anyhow::Result<()> {
    if app.json {
        return print_account(app, client, profile).await;
    }
    let name = app.styled(&clean(&profile.username), Style::new().bold());
    app.line(format!("{what} as {name}; try: messenger chat NAME"))?;
    Ok(())
}

pub(crate) async fn log_out(app: &App) -> anyhow::Result<()> {
    let device = app.device()?;
    match device.client.log_out().await {
        Ok(()) => {}
        // The server has logged it out before, so that only this side is left to be done.
        Err(error) if is_logged_out(&error) => {}
        Err(error) => return Err(error.into()),
    }
    app.home.forget(&device.home)?;
    if app.json {
        return app.object(&json!({ "logged_out": device.home.username }));
    }
    app.line(format!("logged out {}", device.home.username))?;
    Ok(())
}

fn is_logged_out(error: &Error) -> bool {
    use ErrorReason as R;
    *error == Error::NotLoggedIn
        || matches!(
            error.reason(),
            R::TokenInvalid | R::DeviceRevoked | R::RefreshTokenReused | R::DeviceNotFound
        )
}

pub(crate) async fn whoami(app: &App) -> anyhow::Result<()> {
    let device = app.device()?;
    let user_id = device.client.credentials().await?.user_id;
    let profile = device.client.profile(&user_id).await?;
    if app.json {
        return print_account(app, &device.client, &profile).await;
    }
    let name = app.styled(&clean(&profile.username), Style::new().bold());
    app.line(format!("{name} ({})", clean(&profile.display_name)))?;
    app.line(format!("user    {}", clean(&profile.user_id)))?;
    app.line(format!("server  {}", app.server))?;
    Ok(())
}

async fn print_account(app: &App, client: &Client, profile: &Profile) -> anyhow::Result<()> {
    app.object(&json!({
        "user_id": profile.user_id,
        "username": profile.username,
        "display_name": profile.display_name,
        "status_text": profile.status_text,
        "device_id": client.credentials().await?.device_id,
        "server": app.server,
    }))
}

pub(crate) async fn devices(app: &App) -> anyhow::Result<()> {
    for device in app.device()?.client.devices().await? {
        if app.json {
            app.object(&json!({
                "device_id": device.device_id,
                "name": device.name,
                "created_unix_ms": device.created_unix_ms,
                "refreshed_unix_ms": device.refreshed_unix_ms,
                "current": device.current,
            }))?;
            continue;
        }
        app.line(format!(
            "{} {}  last used {}  {}{}",
            if device.current { "*" } else { " " },
            device.device_id,
            app.clock.date_time(device.refreshed_unix_ms),
            clean(&device.name),
            if device.current { " (this one)" } else { "" },
        ))?;
    }
    Ok(())
}

/// What a person recognises in a list of devices.
fn device_name() -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let host: String = host
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(HOST_CHARS_MAX)
        .collect();
    if host.is_empty() {
        "messenger".to_owned()
    } else {
        format!("messenger on {host}")
    }
}
