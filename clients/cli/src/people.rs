//! Other users: find them, and see whether they are there.

use serde_json::json;

use crate::{app::App, home::username, terminal::clean};

/// Users that a search shows.
const FOUND_MAX: i32 = 50;

pub(crate) async fn search(app: &App, prefix: &str) -> anyhow::Result<()> {
    let device = app.device()?;
    let page = device.client.search_profiles(prefix, FOUND_MAX, "").await?;
    for profile in &page.profiles {
        if app.json {
            app.object(&json!({
                "user_id": profile.user_id,
                "username": profile.username,
                "display_name": profile.display_name,
                "status_text": profile.status_text,
            }))?;
            continue;
        }
        let (name, shown) = (clean(&profile.username), clean(&profile.display_name));
        app.line(format!("{name:<32}  {shown}"))?;
    }
    if !app.json && page.profiles.is_empty() {
        app.line("nobody")?;
    }
    if !app.json && !page.next_page_token.is_empty() {
        app.line("and more: give more of the name")?;
    }
    Ok(())
}

pub(crate) async fn presence(app: &App, names: &[String]) -> anyhow::Result<()> {
    let device = app.device()?;
    let mut user_ids = Vec::with_capacity(names.len());
    for name in names {
        let profile = device.client.profile_by_username(&username(name)?).await?;
        user_ids.push(profile.user_id);
    }
    let presences = device.client.presence(&user_ids).await?;
    for (name, presence) in names.iter().zip(presences) {
        if app.json {
            app.object(&json!({
                "username": name,
                "user_id": presence.user_id,
                "online": presence.online,
                "last_seen_unix_ms": presence.last_seen_unix_ms,
            }))?;
            continue;
        }
        let seen = match (presence.online, presence.last_seen_unix_ms) {
            (true, _) => "online".to_owned(),
            (false, 0) => "never seen".to_owned(),
            (false, at) => format!("last seen {}", app.clock.date_time(at)),
        };
        app.line(format!("{}: {seen}", clean(name)))?;
    }
    Ok(())
}
