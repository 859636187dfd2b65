//! The commands of groups.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Files, Saving};

/// A group is named by its id, a beginning of its id that no other has, or its name.
#[derive(Subcommand, Debug)]
pub(crate) enum GroupCommand {
    /// Make a group
    Create {
        /// 1 to 100 characters
        name: String,
        /// Who is in it from the start
        users: Vec<String>,
    },
    /// Add members
    Add {
        group: String,
        #[arg(required = true)]
        users: Vec<String>,
    },
    /// Remove a member
    Remove { group: String, user: String },
    /// Leave a group
    Leave { group: String },
    /// Who is in a group
    Members { group: String },
    /// Give a group another name
    Rename { group: String, name: String },
    /// The groups that you are in
    List,
    /// Write in a group, live: a line is a message; @name and @all mention; /receipts shows who has read
    Chat {
        group: String,
        /// Messages of the history that are shown first
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Send pictures and videos as one message
    Attach {
        group: String,
        #[command(flatten)]
        attach: Files,
    },
    /// Save the pictures and videos of a message
    Save {
        group: String,
        #[command(flatten)]
        save: Saving,
    },
    /// Make a picture the one of a group
    Picture {
        group: String,
        /// JPEG, PNG, GIF or WebP
        #[arg(required_unless_present = "remove")]
        path: Option<PathBuf>,
        /// Have none
        #[arg(long, conflicts_with = "path")]
        remove: bool,
    },
    /// Make an invitation, and print the token that lets others join
    Invite {
        group: String,
        /// Hours after which it is void [default: never]
        #[arg(long, value_name = "HOURS", value_parser = clap::value_parser!(u32).range(1..=8_760))]
        expires: Option<u32>,
        /// How many may join by it; 0 = as many as like
        #[arg(long, default_value_t = 0, value_name = "N")]
        uses: u32,
    },
    /// The invitations that are good
    Invitations { group: String },
    /// Make an invitation void
    Revoke {
        group: String,
        /// As `invitations` shows it
        invitation_id: String,
    },
    /// Join by the token of an invitation
    Join { token: String },
    /// Who has asked to join
    Requests { group: String },
    /// Let somebody in who has asked to join
    Approve { group: String, user: String },
    /// Do not let somebody in who has asked to join
    Decline { group: String, user: String },
    /// Make a member an admin, or an admin a member
    Role {
        group: String,
        user: String,
        role: NewRole,
    },
    /// Make another member the owner
    Transfer { group: String, user: String },
    /// Show or change the settings of a group
    Settings {
        group: String,
        #[command(flatten)]
        settings: NewSettings,
    },
}

/// What of the settings is to change.
#[derive(Args, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NewSettings {
    /// Only admins write
    #[arg(long)]
    pub(crate) announcement: Option<Switch>,
    /// What new members see of the history
    #[arg(long)]
    pub(crate) history: Option<History>,
    /// Who comes by an invitation waits until an admin approves
    #[arg(long)]
    pub(crate) approve: Option<Switch>,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum History {
    /// From their joining on
    Joining,
    /// All of it
    All,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewRole {
    Admin,
    Member,
}

/// The answer to a request to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Approval {
    Approve,
    Decline,
}
