//! What the commands share: who acts, on which server, and how it is shown.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use anyhow::bail;
use messenger_client::{Client, FileTokens, model::Profile};
use serde::Serialize;

use crate::{
    args::Global,
    failure::NotLoggedIn,
    home::{AccountHome, Home, username},
    terminal::Clock,
};

/// What this program calls itself at the server.
pub(crate) const USER_AGENT: &str = concat!("messenger-cli/", env!("CARGO_PKG_VERSION"));
/// How long a call of a person who waits may take.
const CALL_DEADLINE: Duration = Duration::from_secs(15);

/// One run of a command.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) server: String,
    pub(crate) json: bool,
    /// Whether a person looks at the output.
    pub(crate) is_terminal: bool,
    pub(crate) clock: Clock,
    pub(crate) home: Home,
    as_user: Option<String>,
}

/// A device that is logged in.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) client: Client,
    pub(crate) home: AccountHome,
}

impl App {
    pub(crate) fn new(global: &Global, clock: Clock) -> anyhow::Result<Self> {
        Ok(Self {
            server: global.server.clone(),
            json: global.json,
            is_terminal: io::stdout().is_terminal(),
            clock,
            home: Home::new(global.profile_dir.as_deref(), &global.server)?,
            as_user: global.as_user.clone(),
        })
    }

    /// A client that is logged in only as long as the program runs.
    pub(crate) fn anonymous(&self) -> anyhow::Result<Client> {
        let builder = Client::builder(&self.server).user_agent(USER_AGENT);
        Ok(builder.deadline(CALL_DEADLINE).build()?)
    }

    /// The device that acts.
    pub(crate) fn device(&self) -> anyhow::Result<Device> {
        let account = self.home.account(self.as_user.as_deref())?;
        let Some(home) = account.filter(AccountHome::exists) else {
            bail!(NotLoggedIn {
                name: self.as_user.clone(),
            });
        };
        let client = Client::builder(&self.server)
            .user_agent(USER_AGENT)
            .deadline(CALL_DEADLINE)
            .tokens(FileTokens::new(home.tokens()))
            .build()?;
        Ok(Device { client, home })
    }

    /// Prints a line, for people.
    pub(crate) fn line(&self, line: impl AsRef<str>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", line.as_ref())?;
        out.flush()
    }

    /// Prints a line with an object, for machines.
    pub(crate) fn object(&self, object: &impl Serialize) -> anyhow::Result<()> {
        let line = serde_json::to_string(object)?;
        Ok(self.line(line)?)
    }

    /// The text in a style, where a person looks at it.
    pub(crate) fn styled(&self, text: &str, style: console::Style) -> String {
        if self.is_terminal && !self.json {
            style.apply_to(text).to_string()
        } else {
            text.to_owned()
        }
    }
}

impl Device {
    /// The other user of a conversation, who must not be the user himself.
    pub(crate) async fn peer(&self, name: &str) -> anyhow::Result<Profile> {
        let name = username(name)?;
        if name == self.home.username {
            bail!("that is you: conversations are with others");
        }
        Ok(self.client.profile_by_username(&name).await?)
    }
}
