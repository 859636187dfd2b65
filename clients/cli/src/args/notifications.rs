//! The commands of notifications.

use clap::{Args, Subcommand, ValueEnum};

use super::Switch;

#[derive(Subcommand, Debug)]
pub(crate) enum NotificationCommand {
    /// What is set
    Show,
    /// Change it
    Set {
        #[command(flatten)]
        settings: NotificationSettings,
    },
    /// Take pushes on this device by Firebase Cloud Messaging
    Fcm {
        /// As the app got it
        token: String,
    },
    /// Take pushes on this device by Apple
    Apns {
        /// In hexadecimal
        token: String,
        /// The bundle id of the app [default: the server's first one]
        #[arg(long)]
        topic: Option<String>,
        /// The app was built for development
        #[arg(long)]
        sandbox: bool,
    },
    /// Take none on this device
    Remove,
    /// Have digests of what is unread sent to this address; a mail with a code goes there first
    Email {
        /// Such as ann@example.org
        address: String,
    },
    /// Show the code of that mail
    Confirm {
        /// Six digits
        code: String,
    },
    /// Have no mail sent any more
    NoEmail,
}

/// What is not named stays.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct NotificationSettings {
    /// Pushes at all
    #[arg(long)]
    pub(crate) push: Option<Switch>,
    /// What they show of a message
    #[arg(long)]
    pub(crate) preview: Option<Preview>,
    /// Push mentions also from muted conversations
    #[arg(long)]
    pub(crate) mentions: Option<Switch>,
    /// Push nothing meanwhile; what came is pushed at the end
    #[arg(long, value_name = "22:00-07:30", conflicts_with = "no_quiet")]
    pub(crate) quiet: Option<String>,
    /// Push at any time
    #[arg(long)]
    pub(crate) no_quiet: bool,
    /// The zone of those times, such as Europe/Berlin
    #[arg(long, value_name = "ZONE")]
    pub(crate) time_zone: Option<String>,
    /// How often an e-mail comes of what is unread
    #[arg(long)]
    pub(crate) digest: Option<Digest>,
    /// The hour of a daily or weekly one, in that zone
    #[arg(long, value_name = "HOUR", value_parser = clap::value_parser!(u32).range(0..24))]
    pub(crate) digest_hour: Option<u32>,
}

/// How often a digest comes.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Digest {
    /// Never
    Off,
    /// At each full hour
    Hourly,
    /// Once a day
    Daily,
    /// On Mondays
    Weekly,
}

/// What a push shows.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preview {
    /// Who wrote, and what
    Text,
    /// Who wrote
    Name,
    /// That there is something
    Nothing,
}
