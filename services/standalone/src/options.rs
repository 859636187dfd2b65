//! What can be said on the command line or in the environment.

use std::{
    net::SocketAddr,
    num::{NonZeroU32, NonZeroU64},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context;
use clap::Parser;

use crate::Config;

/// The messenger in one process: all services on one port, with embedded storage.
#[derive(Debug, Clone, Parser)]
#[command(name = "messenger-server", version, about)]
pub struct Options {
    /// Where to listen; port 0 takes a free one, which is printed
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7400")]
    #[arg(env = "MESSENGER_LISTEN")]
    pub listen: SocketAddr,
    /// Where pictures and videos are uploaded and downloaded by HTTP; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7401")]
    #[arg(env = "MESSENGER_LISTEN_HTTP")]
    pub listen_http: SocketAddr,
    /// Where clients reach that, if not at its own address
    #[arg(
        long,
        value_name = "URL",
        default_value = "",
        hide_default_value = true
    )]
    #[arg(env = "MESSENGER_PUBLIC_URL_HTTP")]
    pub public_url_http: String,
    /// Where everything is kept; made if it is not there
    #[arg(
        long,
        value_name = "DIR",
        default_value = "data",
        env = "MESSENGER_DATA"
    )]
    pub data: PathBuf,
    /// Make two users and play a short real conversation between them
    #[arg(long)]
    pub demo: bool,
    /// Who delivers pushes, in TOML: [providers.apns], [providers.fcm], [providers.web_push]; see the README
    /// of the notifier. Without it nobody is told of what he has not received
    #[arg(long, value_name = "FILE", env = "MESSENGER_NOTIFIER")]
    pub notifier: Option<PathBuf>,
    /// Frames that a session may send a second, sustained
    #[arg(long, value_name = "N", env = "MESSENGER_SESSION_FRAMES_PER_SECOND")]
    pub session_frames_per_second: Option<NonZeroU32>,
    /// Calls that a user may make a second, sustained
    #[arg(long, value_name = "N", env = "MESSENGER_CALLS_PER_SECOND")]
    pub calls_per_second: Option<NonZeroU32>,
    /// How often sessions hear where their inbox is, in milliseconds
    #[arg(long, value_name = "MS", env = "MESSENGER_HEARTBEAT_INTERVAL_MS")]
    pub heartbeat_interval_ms: Option<NonZeroU64>,
    /// Members that a group may have
    #[arg(long, value_name = "N", env = "MESSENGER_GROUP_MEMBERS_MAX")]
    pub group_members_max: Option<u32>,
    /// Memory of one password hash in KiB; less is faster and weaker
    #[arg(long, value_name = "KIB", env = "MESSENGER_PASSWORD_HASH_KIB")]
    pub password_hash_kib: Option<u32>,
}

impl Options {
    /// The configuration that the options make.
    pub fn config(&self) -> anyhow::Result<Config> {
        let mut config = Config::new(self.data.clone());
        if let Some(file) = &self.notifier {
            let shown = || format!("{}", file.display());
            let text = std::fs::read_to_string(file).with_context(shown)?;
            config.notifier = toml::from_str(&text).with_context(shown)?;
        }
        config.listen = self.listen;
        config.listen_http = self.listen_http;
        config.blob.public_url.clone_from(&self.public_url_http);
        let messaging = &mut config.messaging;
        if let Some(rate) = self.session_frames_per_second {
            messaging.session_frames_per_second = rate;
            messaging.session_burst = messaging.session_burst.max(rate);
        }
        if let Some(rate) = self.calls_per_second {
            messaging.calls_per_second = rate;
            messaging.calls_burst = messaging.calls_burst.max(rate);
        }
        if let Some(ms) = self.heartbeat_interval_ms {
            messaging.heartbeat_interval = Duration::from_millis(ms.get());
        }
        if let Some(members_max) = self.group_members_max {
            config.groups.members_max = members_max;
        }
        if let Some(kib) = self.password_hash_kib {
            config.profile.argon2.memory_kib = kib;
        }
        Ok(config)
    }
}
