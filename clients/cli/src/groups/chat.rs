//! A group, live: a line that is typed is a message to all members, and what comes is a line.

use std::{
    collections::HashSet,
    io::{self, IsTerminal},
};

use console::Style;
use messenger_client::{
    Error, Event, Events, GroupChange, Message, Options, Session, SqliteCache,
    model::{Group, Role, Watermark},
};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    mentions, narrate,
    people::{self, Names},
};
use crate::{
    app::{App, Device},
    attachments,
    chat::{ACK_DEADLINE, HISTORY_MAX, LINES_AHEAD, QUIT, TYPED_MAX, read_lines},
    conversations::message_object,
    failure::explain,
    terminal::clean,
    text::to_messages,
};

/// What shows who has read the last message.
const RECEIPTS: &str = "/receipts";
/// Members that `/receipts` names.
const RECEIPTS_MAX: i32 = 50;

pub(super) async fn run(
    app: &App,
    device: &Device,
    group: Group,
    limit: u32,
) -> anyhow::Result<()> {
    let groups = device.client.groups();
    let mut names = Names::default();
    let mut members = HashSet::new();
    for member in people::members(&groups, &group.group_id).await? {
        names.insert(&member.user_id, &member.username);
        members.insert(member.user_id);
    }
    let cache = SqliteCache::open(device.home.cache()).await?;
    let options = Options::default().cache(cache);
    let (session, mut events) = device.client.connect(options).await?;
    let mut chat = GroupChat {
        app,
        session,
        group,
        names,
        members,
        shown: Watermark::default(),
        last_message_index: 0,
        typed: HashSet::new(),
        is_typed_visible: io::stdin().is_terminal() && app.is_terminal,
        day: String::new(),
        has_left: false,
    };
    chat.show_start(limit).await?;
    let outcome = chat.converse(&mut events).await;
    chat.session.close().await;
    outcome
}

struct GroupChat<'a> {
    app: &'a App,
    session: Session,
    group: Group,
    names: Names,
    /// Who can be mentioned.
    members: HashSet<String>,
    /// The last event on the screen; events up to it are known.
    shown: Watermark,
    /// Of the last message on the screen.
    last_message_index: u64,
    /// Names of the messages typed here that have no ack yet.
    typed: HashSet<String>,
    /// The terminal shows what is typed, so that it need not be printed again.
    is_typed_visible: bool,
    /// The day of the last line.
    day: String,
    /// This user is not in the group any more.
    has_left: bool,
}

impl GroupChat<'_> {
    async fn show_start(&mut self, limit: u32) -> anyhow::Result<()> {
        let limit = limit.min(HISTORY_MAX) as usize;
        if limit > 0 {
            let conversation_id = &self.group.conversation_id;
            let newest = self.session.history(conversation_id, 0, limit).await?;
            let senders = newest.iter().map(|message| message.sender_id.clone());
            let senders = senders.collect();
            self.names.learn(self.session.client(), senders).await;
            for message in newest.iter().rev() {
                self.show_message(message)?;
            }
            self.see().await?;
        }
        if self.app.json {
            return Ok(());
        }
        let (name, count) = (clean(&self.group.name), self.members.len());
        self.note(&format!(
            "{name}, {count} members; @name and @all mention, {RECEIPTS} shows who has read, \
             {QUIT} or Ctrl-D ends"
        ))
    }

    async fn converse(&mut self, events: &mut Events) -> anyhow::Result<()> {
        let mut lines = read_lines();
        let (failures, mut failed) = mpsc::channel(LINES_AHEAD);
        // Far away until the input has ended.
        let end = tokio::time::sleep(std::time::Duration::from_secs(86_400 * 365));
        tokio::pin!(end);
        let mut is_ending = false;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.take(event).await?,
                    None => return Ok(()),
                },
                line = lines.recv(), if !is_ending && self.typed.len() < TYPED_MAX => match line {
                    Some(line) if line.trim_end() == RECEIPTS => self.show_receipts().await?,
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
            if self.has_left || (is_ending && self.typed.is_empty()) {
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
            let member = |name: &str| {
                let user_id = self.names.id_of(name)?;
                self.members.contains(user_id).then_some(user_id)
            };
            let draft = mentions::draft(&text, member);
            let sending = self.session.send(&self.group.conversation_id, draft);
            let mut outgoing = sending.await?;
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
            Event::Message(message) if message.conversation_id == self.group.conversation_id => {
                if message.seq > self.shown.seq {
                    let sender = vec![message.sender_id.clone()];
                    self.names.learn(self.session.client(), sender).await;
                    self.show_message(&message)?;
                }
                self.typed.remove(&message.message_id);
                if message.sender_id != self.session.user_id() {
                    self.see().await?;
                }
            }
            Event::GroupChange(change) if change.conversation_id == self.group.conversation_id => {
                self.take_change(&change).await?;
            }
            Event::Connected if self.app.json => {
                self.app.object(&json!({ "event": "connected" }))?;
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

    async fn take_change(&mut self, change: &GroupChange) -> anyhow::Result<()> {
        let changed = change.members.iter().map(|member| member.user_id.clone());
        let mut people: Vec<String> = changed.collect();
        people.push(change.actor_id.clone());
        self.names.learn(self.session.client(), people).await;
        // The members were asked for at the start: what is older is in that answer.
        if change.version > self.group.version {
            self.group.version = change.version;
            for member in &change.members {
                match change.role_of(&member.user_id) {
                    Some(Role::Unspecified) => self.members.remove(&member.user_id),
                    _ => self.members.insert(member.user_id.clone()),
                };
            }
            if let Some(name) = &change.name {
                self.group.name.clone_from(name);
            }
            self.has_left = change.role_of(self.session.user_id()) == Some(Role::Unspecified);
        }
        if change.seq <= self.shown.seq {
            return Ok(());
        }
        self.shown = change.watermark();
        let line = narrate::line(change, |user_id| self.names.of(user_id));
        if self.app.json {
            self.app.object(&json!({
                "event": "group_change",
                "conversation_id": change.conversation_id,
                "seq": change.seq,
                "version": change.version,
                "kind": change.kind.as_str_name().trim_start_matches("GROUP_CHANGE_KIND_"),
                "actor_id": change.actor_id,
                "member_ids": change.members.iter().map(|m| &m.user_id).collect::<Vec<_>>(),
                "text": line,
            }))?;
        } else {
            self.note(&line)?;
        }
        match self.has_left {
            true => Ok(()),
            false => self.see().await,
        }
    }

    fn show_message(&mut self, message: &Message) -> anyhow::Result<()> {
        self.shown = message.watermark();
        self.last_message_index = message.message_index;
        let own_id = self.session.user_id();
        if self.app.json {
            let mut object = message_object(message, None);
            object["event"] = "message".into();
            object["mentions_me"] = message.mentions(own_id).into();
            return self.app.object(&object);
        }
        let is_own = message.sender_id == own_id;
        if is_own && self.is_typed_visible && self.typed.contains(&message.message_id) {
            let tick = self.app.styled("✓", Style::new().dim());
            return Ok(self.app.line(format!("       {tick}"))?);
        }
        let at = self.app.clock.date_time(message.time_unix_ms);
        let (day, time) = at.split_once(' ').unwrap_or_default();
        if self.day != day {
            self.note(day)?;
            self.day = day.to_owned();
        }
        let name = match is_own {
            true => self.app.styled("you", Style::new().dim()),
            false => {
                let name = self.names.of(&message.sender_id);
                self.app.styled(&clean(&name), Style::new().bold())
            }
        };
        let text = match message.mentions(own_id) && !is_own {
            true => self
                .app
                .styled(&attachments::line(message), Style::new().yellow()),
            false => attachments::line(message),
        };
        Ok(self.app.line(format!("{time}  {name}: {text}"))?)
    }

    /// Who has the last message that is shown, and who has read it.
    async fn show_receipts(&mut self) -> anyhow::Result<()> {
        let index = self.last_message_index;
        if index == 0 {
            return self.note("there is no message yet");
        }
        let client = self.session.client();
        let conversation_id = &self.group.conversation_id;
        let asked = client.list_receipts(conversation_id, index, RECEIPTS_MAX, "");
        let receipts = match asked.await {
            Ok(receipts) => receipts,
            Err(error) => {
                let why = explain(&error, &self.app.server);
                return self.note(&format!("no receipts: {}", clean(&why)));
            }
        };
        let members = receipts.members.iter();
        let ids = members.map(|marks| marks.user_id.clone()).collect();
        self.names.learn(client, ids).await;
        let has_read = |marks: &&messenger_client::model::MemberMarks| {
            let read = marks.read.as_ref();
            read.is_some_and(|read| read.message_index >= index)
        };
        if self.app.json {
            return self.app.object(&json!({
                "event": "receipts",
                "message_index": receipts.message_index,
                "member_count": receipts.member_count,
                "delivered_count": receipts.delivered_count,
                "read_count": receipts.read_count,
                "read_by": receipts.members.iter().filter(has_read)
                    .map(|marks| &marks.user_id).collect::<Vec<_>>(),
            }));
        }
        let readers = receipts.members.iter().filter(has_read);
        let readers: Vec<String> = readers
            .map(|marks| clean(&self.names.of(&marks.user_id)).into_owned())
            .collect();
        let more = if receipts.next_page_token.is_empty() {
            ""
        } else {
            " ..."
        };
        self.note(&format!(
            "of {} members {} have the last message and {} have read it: {}{more}",
            receipts.member_count,
            receipts.delivered_count,
            receipts.read_count,
            readers.join(", ")
        ))
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
            let conversation_id = &self.group.conversation_id;
            self.session.mark_read(conversation_id, self.shown).await?;
        }
        Ok(())
    }

    fn note(&self, text: &str) -> anyhow::Result<()> {
        let note = self.app.styled(&format!("-- {text}"), Style::new().dim());
        Ok(self.app.line(note)?)
    }
}
