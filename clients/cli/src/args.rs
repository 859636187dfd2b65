//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

pub(crate) use group::{Approval, GroupCommand, History, NewRole, NewSettings, Switch};
pub(crate) use notifications::{Digest, NotificationCommand, NotificationSettings, Preview};

mod group;
mod notifications;

/// The messenger on a command line
#[derive(Parser, Debug)]
#[command(name = "messenger", version, propagate_version = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command knows.
#[derive(ClapArgs, Debug, Clone)]
pub(crate) struct Global {
    /// The server
    #[arg(
        long,
        global = true,
        env = "MESSENGER_SERVER",
        default_value = "http://127.0.0.1:7400"
    )]
    pub(crate) server: String,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Act as this user, who has logged in here before [default: who logged in last]
    #[arg(long = "as", global = true, env = "MESSENGER_AS", value_name = "NAME")]
    pub(crate) as_user: Option<String>,
    /// Where log-ins and history are kept [default: messenger in the folder for data of programs]
    #[arg(long, global = true, env = "MESSENGER_PROFILE_DIR", value_name = "DIR")]
    pub(crate) profile_dir: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make an account and log in
    Register(Register),
    /// Log in
    Login(LogIn),
    /// Log this device out, and forget what is kept here of the account
    Logout,
    /// Who is logged in here
    Whoami,
    /// Where the account is logged in
    Devices,
    /// Write with somebody, live: a line is a message
    Chat {
        /// The other user's name
        name: String,
        /// Messages of the history that are shown first
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// The latest conversations
    Conversations {
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// The last messages with somebody
    History {
        /// The other user's name
        name: String,
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Send one message
    Send {
        /// The other user's name
        name: String,
        /// What to say; several words need no quotes; - reads it from the standard input
        #[arg(required = true)]
        text: Vec<String>,
    },
    /// Send pictures and videos as one message
    Attach {
        /// The other user's name
        name: String,
        #[command(flatten)]
        attach: Files,
    },
    /// Save the pictures and videos of a message
    Save {
        /// The other user's name
        name: String,
        #[command(flatten)]
        save: Saving,
    },
    /// Make a picture the one of your profile
    Picture {
        /// JPEG, PNG, GIF or WebP
        #[arg(required_unless_present = "remove")]
        path: Option<PathBuf>,
        /// Have none
        #[arg(long, conflicts_with = "path")]
        remove: bool,
    },
    /// Groups: make, change, join and leave them, and write in them
    #[command(subcommand)]
    Group(GroupCommand),
    /// How you are told of messages while no device of yours is there
    #[command(subcommand)]
    Notifications(NotificationCommand),
    /// Find users by the beginning of their name
    Search {
        /// The beginning of a username, a display name or a word of it
        prefix: String,
    },
    /// Whether somebody is online, or was last
    Presence {
        /// The users' names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Play logs of a chat channel through real sessions, then check that nothing is missing
    Replay(Replay),
}

#[derive(ClapArgs, Debug)]
pub(crate) struct Register {
    /// 2 to 32 of a-z 0-9 _ . -
    pub(crate) name: String,
    /// The name that others see [default: NAME]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) display_name: String,
    #[command(flatten)]
    pub(crate) password: Password,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct LogIn {
    /// The account
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) password: Password,
}

/// Where the password comes from: the standard input, MESSENGER_PASSWORD, or a question.
#[derive(ClapArgs, Debug)]
pub(crate) struct Password {
    /// Read the password from the first line of the standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct Files {
    /// Pictures (JPEG, PNG, GIF, WebP) and videos (MP4, QuickTime, WebM), at most 16 MiB each
    #[arg(required = true, num_args = 1..=10, value_name = "FILE")]
    pub(crate) paths: Vec<PathBuf>,
    /// What to say with them
    #[arg(long)]
    pub(crate) text: Option<String>,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct Saving {
    /// The number that stands after the #, where the message is shown [default: the last that has any]
    pub(crate) message: Option<u64>,
    /// Where; a file that is there already is left as it is
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    pub(crate) to: PathBuf,
    /// The small pictures instead
    #[arg(long)]
    pub(crate) thumbnail: bool,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct Replay {
    /// Logs, each with its NAME.annotation.txt beside it; with --groups also folders of logs, which need
    /// no annotations
    #[arg(required = true, value_name = "NAME.raw.txt")]
    pub(crate) files: Vec<PathBuf>,
    /// Play each log as a group: who comes is added, who goes leaves, and all who are there get what is
    /// said. One of the devices of each user comes at the end
    #[arg(long)]
    pub(crate) groups: bool,
    /// Messages a second, or max
    #[arg(long, default_value = "max", value_parser = parse_speed, value_name = "max|N")]
    pub(crate) speed: Speed,
    /// Attach pictures to one message in ten, and look at all of them on somebody else's device afterwards
    #[arg(long)]
    pub(crate) attachments: bool,
    /// What the pictures are made from
    #[arg(long, default_value_t = 1, requires = "attachments")]
    pub(crate) seed: u64,
    /// Devices of each user that are connected
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(crate) sessions_per_user: u8,
}

/// How fast a replay goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Speed {
    /// As fast as acks come.
    Max,
    /// So many messages a second.
    PerSecond(f64),
}

fn parse_speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    match text.parse() {
        // Slower than one a minute is a typing error.
        Ok(rate) if (1.0 / 60.0..=1e6).contains(&rate) => Ok(Speed::PerSecond(rate)),
        _ => Err("max, or messages a second".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_speed_is_max_or_a_rate() {
        assert_eq!(parse_speed("max"), Ok(Speed::Max));
        assert_eq!(parse_speed("20"), Ok(Speed::PerSecond(20.0)));
        for wrong in ["", "0", "-1", "NaN", "inf", "fast"] {
            assert!(parse_speed(wrong).is_err(), "{wrong}");
        }
    }
}
