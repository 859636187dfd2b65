//! The task of a session.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::{
    client::Client,
    error::Result,
    session::{Command, Event, Options, SessionState},
    stats::Counters,
};

pub(crate) struct Ends {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) state: watch::Sender<SessionState>,
    pub(crate) counters: Arc<Counters>,
}

pub(crate) async fn start(
    _client: Client,
    _user_id: Arc<str>,
    _options: Options,
    _ends: Ends,
) -> Result<()> {
    Ok(())
}
