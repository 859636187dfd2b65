//! A conversation, live: a line that is typed is a message, and what comes is a line.
//!
//! Nothing of the screen is redrawn, so it works in every terminal, and as a pipe.

use std::{
    collections::HashSet,
    io::{self, BufRead, IsTerminal, Read},
    thread,
    time::Duration,
};

use console::Style;
use messenger_client::{
    Error, Event, Events, Message, Options, Session, SqliteCache, Tick,
    model::{MemberMarks, Profile, Watermark},
};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    app::{App, Device},
    conversations::{message_object, shown_message, shown_tick, tick_name},
    failure::explain,
    terminal::clean,
    text::to_messages,
};

/// Lines that are read ahead of what is sent.
pub(crate) const LINES_AHEAD: usize = 16;
/// How long the end of the input waits for acks of what was typed; what is unsent then stays in the
/// cache and is sent by the next chat.
pub(crate) const ACK_DEADLINE: Duration = Duration::from_secs(30);
/// Messages of the history that one call gives.
pub(crate) const HISTORY_MAX: u32 = 200;
/// Typed messages without an ack above which no more lines are taken: far below what the SDK
/// queues.
pub(crate) const TYPED_MAX: usize = 256;
/// Bytes of a line that are taken at a time; a longer one is several lines.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// What ends a chat, besides the end of the input.
pub(crate) const QUIT: &str = "/quit";

pub(crate) async fn run(app: &App, name: &str, limit: u32) -> anyhow::Result<()> {
    let device = app.device()?;
    let peer = device.peer(name).await?;
    let conversation = device.client.open_direct(&peer.user_id).await?;
    let cache = SqliteCache::open(device.home.cache()).await?;
    let (session, mut events) = device
        .client
        .connect(Options::default().cache(cache))
        .await?;

    let mut chat = Chat {
        app,
        session,
        peer,
        conversation_id: conversation.conversation_id,
        peer_marks: conversation.peer_marks.unwrap_or_default(),
        shown: Watermark::default(),
        own_seqs: Vec::new(),
        typed: HashSet::new(),
        is_typed_visible: io::stdin().is_terminal() && app.is_terminal,
        day: String::new(),
    };
    chat.show_start(&device, limit).await?;
    let outcome = chat.converse(&mut events).await;
    chat.session.close().await;
    outcome
}

struct Chat<'a> {
    app: &'a App,
    session: Session,
    peer: Profile,
    conversation_id: String,
    peer_marks: MemberMarks,
    /// The last message on the screen; events up to it are known.
    shown: Watermark,
    /// Own messages on the screen that were not read when they were shown.
    own_seqs: Vec<u64>,
    /// Names of the messages typed here that have no ack yet.
    typed: HashSet<String>,
    /// The terminal shows what is typed, so that it need not be printed again.
    is_typed_visible: bool,
    /// The day of the last line.
    day: String,
}

impl Chat<'_> {
    async fn show_start(&mut self, device: &Device, limit: u32) -> anyhow::Result<()> {
        let limit = limit.min(HISTORY_MAX) as usize;
        if limit > 0 {
            let newest = self
                .session
                .history(&self.conversation_id, 0, limit)
                .await?;
            for message in newest.iter().rev() {
                self.show_message(message)?;
            }
            self.see().await?;
        }
        if self.app.json {
            return Ok(());
        }
        let presence = device
            .client
            .presence(std::slice::from_ref(&self.peer.user_id))
            .await?;
        let is_online = presence.first().is_some_and(|presence| presence.online);
        let state = if is_online {
            "is online"
        } else {
            "is not online"
        };
        self.note(&format!(
            "{} {state}; {QUIT} or Ctrl-D ends",
            clean(&self.peer.username)
        ))
    }

    async fn converse(&mut self, events: &mut Events) -> anyhow::Result<()> {
        let mut lines = read_lines();
        let (failures, mut failed) = mpsc::channel(LINES_AHEAD);
        // Far away until the input has ended.
        let end = tokio::time::sleep(Duration::from_secs(86_400 * 365));
        tokio::pin!(end);
        let mut is_ending = false;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.take(event).await?,
                    None => return Ok(()),
                },
                line = lines.recv(), if !is_ending && self.typed.len() < TYPED_MAX => match line {
                    Some(line) if line.trim_end() != QUIT => self.send(&line, &failures).await?,
                    _ => {
                        is_ending = true;
                        end.as_mut().reset(tokio::time::Instant::now() + ACK_DEADLINE);
                    }
                },
                Some((id, error)) = failed.recv() => self.show_failure(&id, &error)?,
                () = &mut end => anyhow::bail!(
                    "{} messages are not sent yet; the next chat will send them", self.typed.len()
                ),
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
            if is_ending && self.typed.is_empty() {
                return Ok(());
            }
        }
    }

    async fn send(
        &mut self,
        line: &str,
        failures: &mpsc::Sender<(String, Error)>,
    ) -> anyhow::Result<()> {
        for text in to_messages(line) {
            let mut outgoing = self.session.send(&self.conversation_id, text).await?;
            let message_id = outgoing.message_id().to_owned();
            self.typed.insert(message_id.clone());
            let failures = failures.clone();
            // Ends with the answer, or with the session.
            tokio::spawn(async move {
                match outgoing.sent().await {
                    // The message comes as an event, too.
                    Ok(_) | Err(Error::Closed) => {}
                    Err(error) => drop(failures.send((message_id, error)).await),
                }
            });
        }
        Ok(())
    }

    async fn take(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Message(message) if message.conversation_id == self.conversation_id => {
                if message.seq > self.shown.seq {
                    self.show_message(&message)?;
                }
                self.typed.remove(&message.message_id);
                if message.sender_id == self.peer.user_id {
                    self.see().await?;
                }
            }
            Event::Marks {
                conversation_id,
                members,
            } if conversation_id == self.conversation_id => {
                let of_peer = members
                    .into_iter()
                    .find(|marks| marks.user_id == self.peer.user_id);
                if let Some(marks) = of_peer {
                    self.show_ticks(marks)?;
                }
            }
            Event::Connected if self.app.json => {
                self.app.object(&json!({ "event": "connected" }))?
            }
            Event::Disconnected { error, retry_in } => {
                let why = explain(&error, &self.app.server);
                if self.app.json {
                    let ms = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX);
                    let event = json!({"event": "disconnected", "error": why, "retry_in_ms": ms});
                    return self.app.object(&event);
                }
                self.note(&format!("disconnected ({}); connecting again", clean(&why)))?;
            }
            Event::Closed(error) => return Err(error.into()),
            _ => {}
        }
        Ok(())
    }

    fn show_message(&mut self, message: &Message) -> anyhow::Result<()> {
        self.shown = message.watermark();
        let is_own = message.sender_id != self.peer.user_id;
        let tick = is_own.then(|| Tick::of(message.seq, &self.peer_marks));
        if tick.is_some_and(|tick| tick != Tick::Read) {
            self.own_seqs.push(message.seq);
        }
        if self.app.json {
            let mut object = message_object(message, tick);
            object["event"] = "message".into();
            return self.app.object(&object);
        }
        if let Some(tick) = tick
            && self.is_typed_visible
            && self.typed.contains(&message.message_id)
        {
            return Ok(self
                .app
                .line(format!("       {}", shown_tick(self.app, tick)))?);
        }
        let at = self.app.clock.date_time(message.time_unix_ms);
        let (day, time) = at.split_once(' ').unwrap_or_default();
        if self.day != day {
            self.note(day)?;
            self.day = day.to_owned();
        }
        let shown = shown_message(self.app, message, &self.peer.username, tick);
        Ok(self.app.line(format!("{time}  {shown}"))?)
    }

    /// A line for the ticks that own messages have got.
    fn show_ticks(&mut self, marks: MemberMarks) -> anyhow::Result<()> {
        for tick in [Tick::Delivered, Tick::Read] {
            let grown = self.own_seqs.iter().filter(|seq| {
                let (before, after) = (Tick::of(**seq, &self.peer_marks), Tick::of(**seq, &marks));
                before < after && after == tick
            });
            let seqs: Vec<u64> = grown.copied().collect();
            let Some(last) = seqs.last() else { continue };
            if self.app.json {
                self.app.object(&json!({
                    "event": "tick", "tick": tick_name(tick), "up_to_seq": last,
                }))?;
                continue;
            }
            let count = match seqs.len() {
                1 => String::new(),
                count => format!(" ({count} messages)"),
            };
            let what = if tick == Tick::Delivered {
                " delivered"
            } else {
                ""
            };
            self.app.line(format!(
                "       {}{what}{count}",
                shown_tick(self.app, tick)
            ))?;
        }
        self.own_seqs
            .retain(|seq| Tick::of(*seq, &marks) != Tick::Read);
        self.peer_marks = marks;
        Ok(())
    }

    fn show_failure(&mut self, message_id: &str, error: &Error) -> anyhow::Result<()> {
        self.typed.remove(message_id);
        let why = explain(error, &self.app.server);
        if self.app.json {
            let event = json!({ "event": "failed", "message_id": message_id, "error": why });
            return self.app.object(&event);
        }
        self.note(&format!("not sent: {}", clean(&why)))
    }

    /// What is on the screen has been seen.
    async fn see(&self) -> anyhow::Result<()> {
        if self.shown.seq > 0 {
            self.session
                .mark_read(&self.conversation_id, self.shown)
                .await?;
        }
        Ok(())
    }

    fn note(&self, text: &str) -> anyhow::Result<()> {
        let note = self.app.styled(&format!("-- {text}"), Style::new().dim());
        Ok(self.app.line(note)?)
    }
}

/// The lines of the standard input. A thread waits for them: it ends with the input or the program.
pub(crate) fn read_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut input = io::stdin().lock();
        loop {
            let read = (&mut input)
                .take(LINE_BYTES_MAX)
                .read_until(b'\n', &mut bytes);
            if !read.is_ok_and(|count| count > 0) {
                return;
            }
            let line = String::from_utf8_lossy(&bytes);
            let line = line.trim_end_matches(['\r', '\n']).to_owned();
            if sender.blocking_send(line).is_err() {
                return;
            }
            bytes.clear();
        }
    });
    receiver
}
