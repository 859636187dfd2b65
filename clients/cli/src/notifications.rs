//! How one is told of messages that no device of one's own has received.

use anyhow::Context;
use messenger_client::{
    PreferencesUpdate,
    model::{
        ApnsTarget, DigestPeriod, EmailAddress, EmailDisabled, FcmTarget, Preferences,
        PreviewDetail, PushProvider, PushTarget, QuietHours,
    },
};
use serde_json::json;

use crate::{
    app::App,
    args::{Digest, NotificationCommand, NotificationSettings, Preview, Switch},
    terminal::clean,
};

/// Minutes of a day.
const DAY_MINUTES: u32 = 24 * 60;

pub(crate) async fn run(app: &App, command: &NotificationCommand) -> anyhow::Result<()> {
    let device = app.device()?;
    let client = &device.client;
    match command {
        NotificationCommand::Show => {
            let (preferences, email) = (client.preferences().await?, client.email().await?);
            show(app, &preferences, email.as_ref())
        }
        NotificationCommand::Set { settings } => {
            let update = update(settings)?;
            let preferences = client.update_preferences(update).await?;
            show(app, &preferences, client.email().await?.as_ref())
        }
        NotificationCommand::Fcm { token } => {
            let provider = PushProvider::Fcm(FcmTarget {
                registration_token: token.clone(),
            });
            client.register_push(target(provider)).await?;
            registered(app)
        }
        NotificationCommand::Apns {
            token,
            topic,
            sandbox,
        } => {
            let provider = PushProvider::Apns(ApnsTarget {
                device_token: token.clone(),
                topic: topic.clone().unwrap_or_default(),
                sandbox: *sandbox,
            });
            client.register_push(target(provider)).await?;
            registered(app)
        }
        NotificationCommand::Remove => {
            client.remove_push().await?;
            said(app, false, "this device takes no pushes any more")
        }
        NotificationCommand::Email { address } => {
            show_email(app, &client.set_email(address).await?)
        }
        NotificationCommand::Confirm { code } => {
            show_email(app, &client.confirm_email(code).await?)
        }
        NotificationCommand::NoEmail => {
            client.remove_email().await?;
            said(app, false, "no mail is sent any more")
        }
    }
}

fn target(provider: PushProvider) -> PushTarget {
    PushTarget {
        provider: Some(provider),
    }
}

fn registered(app: &App) -> anyhow::Result<()> {
    said(app, true, "this device takes pushes there now")
}

fn said(app: &App, registered: bool, what: &str) -> anyhow::Result<()> {
    if app.json {
        return app.object(&json!({ "registered": registered }));
    }
    Ok(app.line(what)?)
}

fn update(settings: &NotificationSettings) -> anyhow::Result<PreferencesUpdate> {
    let quiet_hours = match (&settings.quiet, settings.no_quiet) {
        (Some(hours), _) => Some(quiet_hours(hours)?),
        (None, true) => Some(QuietHours::default()),
        (None, false) => None,
    };
    Ok(PreferencesUpdate {
        push: settings.push.map(|push| push == Switch::On),
        preview: settings.preview.map(|preview| match preview {
            Preview::Text => PreviewDetail::NameAndText,
            Preview::Name => PreviewDetail::NameOnly,
            Preview::Nothing => PreviewDetail::Nothing,
        }),
        mentions_pierce_mute: settings.mentions.map(|mentions| mentions == Switch::On),
        quiet_hours,
        time_zone: settings.time_zone.clone(),
        digest: settings.digest.map(|digest| match digest {
            Digest::Off => DigestPeriod::Off,
            Digest::Hourly => DigestPeriod::Hourly,
            Digest::Daily => DigestPeriod::Daily,
            Digest::Weekly => DigestPeriod::Weekly,
        }),
        digest_hour: settings.digest_hour,
        if_version: 0,
    })
}

/// `22:00-07:30`.
fn quiet_hours(text: &str) -> anyhow::Result<QuietHours> {
    let minute = |text: &str| {
        let (hours, minutes) = text.split_once(':')?;
        let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
        (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
    };
    let parts = text.split_once('-');
    let hours = parts.and_then(|(from, to)| Some((minute(from.trim())?, minute(to.trim())?)));
    let (from_minute, to_minute) = hours.context("quiet hours look like 22:00-07:30")?;
    Ok(QuietHours {
        on: true,
        from_minute,
        to_minute,
    })
}

fn clock(minute: u32) -> String {
    let minute = minute % DAY_MINUTES;
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

fn show(app: &App, preferences: &Preferences, email: Option<&EmailAddress>) -> anyhow::Result<()> {
    let quiet = preferences.quiet_hours.unwrap_or_default();
    let preview = match preferences.preview() {
        PreviewDetail::NameOnly => "name",
        PreviewDetail::Nothing => "nothing",
        PreviewDetail::NameAndText | PreviewDetail::Unspecified => "text",
    };
    let digest = match preferences.digest() {
        DigestPeriod::Unspecified | DigestPeriod::Off => "off",
        DigestPeriod::Hourly => "hourly",
        DigestPeriod::Daily => "daily",
        DigestPeriod::Weekly => "weekly",
    };
    if app.json {
        return app.object(&json!({
            "push": preferences.push,
            "preview": preview,
            "mentions_pierce_mute": preferences.mentions_pierce_mute,
            "quiet_hours": quiet.on.then(|| json!({
                "from_minute": quiet.from_minute,
                "to_minute": quiet.to_minute,
            })),
            "time_zone": preferences.time_zone,
            "digest": digest,
            "digest_hour": preferences.digest_hour,
            "version": preferences.version,
            "email": email.map(email_json),
        }));
    }
    let on = |is_on: bool| if is_on { "on" } else { "off" };
    app.line(format!("pushes       {}", on(preferences.push)))?;
    app.line(format!("they show    {preview}"))?;
    let mentions = on(preferences.mentions_pierce_mute);
    app.line(format!("mentions     {mentions}, also where it is muted"))?;
    let hours = match quiet.on {
        true => format!("{}-{}", clock(quiet.from_minute), clock(quiet.to_minute)),
        false => "none".to_owned(),
    };
    app.line(format!("quiet hours  {hours}"))?;
    let digest = match digest {
        "daily" | "weekly" => format!("{digest}, at {}", clock(60 * preferences.digest_hour)),
        _ => digest.to_owned(),
    };
    app.line(format!("digests      {digest}"))?;
    app.line(format!("time zone    {}", clean(&preferences.time_zone)))?;
    match email {
        Some(email) => show_email(app, email),
        None => Ok(app.line("e-mail       none")?),
    }
}

fn email_json(email: &EmailAddress) -> serde_json::Value {
    json!({
        "address": email.address,
        "confirmed": email.confirmed,
        "disabled": email.disabled() != EmailDisabled::Unspecified,
    })
}

fn show_email(app: &App, email: &EmailAddress) -> anyhow::Result<()> {
    let state = match (email.disabled(), email.confirmed) {
        (EmailDisabled::Bounced, _) => "disabled: there is no such address",
        (EmailDisabled::Complained, _) => "disabled: our mail was called junk",
        (EmailDisabled::Unspecified, true) => "confirmed",
        (EmailDisabled::Unspecified, false) => {
            "to be confirmed with the code of the mail sent there"
        }
    };
    if app.json {
        return app.object(&email_json(email));
    }
    Ok(app.line(format!("e-mail       {} ({state})", clean(&email.address)))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_hours_are_read_as_people_write_them() {
        let hours = |text: &str| {
            let hours = quiet_hours(text).ok()?;
            Some((hours.on, hours.from_minute, hours.to_minute))
        };
        assert_eq!(hours("22:00-07:30"), Some((true, 1_320, 450)));
        assert_eq!(hours("0:00 - 23:59"), Some((true, 0, 1_439)));
        for wrong in [
            "",
            "22-7",
            "24:00-01:00",
            "22:60-07:00",
            "-1:00-02:00",
            "22:00",
        ] {
            assert_eq!(hours(wrong), None, "{wrong}");
        }
        assert_eq!(clock(450), "07:30");
    }
}
