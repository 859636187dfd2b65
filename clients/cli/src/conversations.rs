//! Conversations without a session: the list, the history, and sending one message.

use std::io::{self, Read};

use anyhow::{Context, ensure};
use console::Style;
use messenger_client::{
    Message, Tick,
    model::{Conversation, MemberMarks, MessageRange, Order, ProfileSnippet},
};
use serde_json::json;

use crate::{
    app::{App, Device},
    args::{Files, Saving},
    attachments,
    terminal::clean,
    text::to_messages,
};

/// Conversations of a page of the list.
const LIST_PAGE_MAX: u32 = 100;
/// Messages of a page of history.
const HISTORY_PAGE_MAX: u32 = 200;
/// Bytes that are read from the standard input as one text: some pages.
const INPUT_BYTES_MAX: u64 = 64 * 1024;
/// Letters of a name in a list.
const NAME_WIDTH: usize = 16;

pub(crate) async fn list(app: &App, limit: u32) -> anyhow::Result<()> {
    let device = app.device()?;
    let own_id = device.client.credentials().await?.user_id;
    let (mut left, mut page_token) = (limit, String::new());
    while left > 0 {
        let size = i32::try_from(left.min(LIST_PAGE_MAX))?;
        let page = device
            .client
            .list_conversations(size, &page_token, 0)
            .await?;
        for conversation in page.conversations.iter().take(left as usize) {
            print_row(app, conversation, &own_id)?;
        }
        left = left.saturating_sub(u32::try_from(page.conversations.len())?);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    Ok(())
}

fn print_row(app: &App, conversation: &Conversation, own_id: &str) -> anyhow::Result<()> {
    let no_peer = ProfileSnippet::default();
    let peer = conversation.peer.as_ref().unwrap_or(&no_peer);
    let group = conversation.group.as_ref();
    let preview = conversation.preview.clone().unwrap_or_default();
    if app.json {
        return app.object(&json!({
            "conversation_id": conversation.conversation_id,
            "username": peer.username,
            "user_id": peer.user_id,
            "group_id": group.map(|group| &group.group_id),
            "group_name": group.map(|group| &group.name),
            "left": conversation.left,
            "unread_count": conversation.unread_count,
            "last_seq": conversation.last_seq,
            "last_message_index": conversation.last_message_index,
            "last_message_unix_ms": preview.time_unix_ms,
            "last_sender_id": preview.sender_id,
            "preview": preview.text,
            "attachment_count": preview.attachment_count,
            "video_count": preview.video_count,
        }));
    }
    let (unread, style) = match conversation.unread_count {
        0 => (String::new(), Style::new()),
        count => (format!("({count})"), Style::new().bold()),
    };
    let name = group.map_or(&peer.username, |group| &group.name);
    let what = match (conversation.left, preview.joined) {
        (true, _) => "(left) ",
        (false, true) => "(new)",
        (false, false) if preview.sender_id == own_id => "you: ",
        (false, false) => "",
    };
    let line = format!(
        "{}  {:<NAME_WIDTH$} {unread:>5}  {what}{}",
        app.clock.date_time(preview.time_unix_ms),
        clean(name),
        attachments::preview(&preview),
    );
    app.line(app.styled(&line, style))?;
    Ok(())
}

pub(crate) async fn history(app: &App, name: &str, limit: u32) -> anyhow::Result<()> {
    let device = app.device()?;
    let peer = device.peer(name).await?;
    let conversation = device.client.open_direct(&peer.user_id).await?;
    let conversation_id = &conversation.conversation_id;
    let mut messages = Vec::new();
    let (mut left, mut before, mut as_of_seq) = (limit, 0, 0);
    while left > 0 {
        let range = MessageRange {
            conversation_id: conversation_id.clone(),
            before_message_index: before,
            as_of_seq,
            page_size: i32::try_from(left.min(HISTORY_PAGE_MAX))?,
            order: Order::NewestFirst.into(),
            ..MessageRange::default()
        };
        let page = device.client.list_messages(vec![range]).await?.pop();
        let Some(page) = page else { break };
        left = left.saturating_sub(u32::try_from(page.messages.len())?);
        (before, as_of_seq) = (page.from_message_index, page.as_of_seq);
        messages.extend(page.messages);
        if !page.more || before <= 1 {
            break;
        }
    }
    let marks = conversation.peer_marks.clone().unwrap_or_default();
    for message in messages.into_iter().rev() {
        let message = Message::from_shown(conversation_id, message);
        print_message(app, &message, &peer.user_id, &peer.username, &marks)?;
    }
    Ok(())
}

/// One message with its day, for a history.
fn print_message(
    app: &App,
    message: &Message,
    peer_id: &str,
    peer_name: &str,
    peer_marks: &MemberMarks,
) -> anyhow::Result<()> {
    let tick = (message.sender_id != peer_id).then(|| Tick::of(message.seq, peer_marks));
    if app.json {
        return app.object(&message_object(message, tick));
    }
    let at = app.clock.date_time(message.time_unix_ms);
    app.line(format!(
        "{at}  {}",
        shown_message(app, message, peer_name, tick)
    ))?;
    Ok(())
}

/// `name: text`, and the tick of an own message.
pub(crate) fn shown_message(
    app: &App,
    message: &Message,
    peer_name: &str,
    tick: Option<Tick>,
) -> String {
    let text = attachments::line(message);
    match tick {
        Some(tick) => {
            let you = app.styled("you", Style::new().dim());
            format!("{you}: {text}  {}", shown_tick(app, tick))
        }
        None => {
            let name = app.styled(&clean(peer_name), Style::new().bold());
            format!("{name}: {text}")
        }
    }
}

/// One tick: the server has it; two: the other's device has it; in colour: the other has seen it.
pub(crate) fn shown_tick(app: &App, tick: Tick) -> String {
    match tick {
        Tick::Sent => app.styled("✓", Style::new().dim()),
        Tick::Delivered => app.styled("✓✓", Style::new().dim()),
        Tick::Read => app.styled("✓✓ read", Style::new().cyan()),
    }
}

pub(crate) fn tick_name(tick: Tick) -> &'static str {
    match tick {
        Tick::Sent => "sent",
        Tick::Delivered => "delivered",
        Tick::Read => "read",
    }
}

pub(crate) fn message_object(message: &Message, tick: Option<Tick>) -> serde_json::Value {
    json!({
        "conversation_id": message.conversation_id,
        "seq": message.seq,
        "message_index": message.message_index,
        "time_unix_ms": message.time_unix_ms,
        "sender_id": message.sender_id,
        "message_id": message.message_id,
        "text": message.text,
        "mentioned_user_ids": message.mentioned_user_ids,
        "mentions_all": message.mentions_all,
        "attachments": message.attachments.iter().map(attachments::object).collect::<Vec<_>>(),
        "tick": tick.map(tick_name),
    })
}

/// Where the direct conversation with somebody is.
async fn place(device: &Device, name: &str) -> anyhow::Result<attachments::Place> {
    let peer = device.peer(name).await?;
    let conversation = device.client.open_direct(&peer.user_id).await?;
    Ok(attachments::Place {
        conversation_id: conversation.conversation_id,
        file_stem: peer.username,
    })
}

pub(crate) async fn attach(app: &App, name: &str, command: &Files) -> anyhow::Result<()> {
    let device = app.device()?;
    let place = place(&device, name).await?;
    attachments::attach(app, &device.client, &place, command).await
}

pub(crate) async fn save(app: &App, name: &str, command: &Saving) -> anyhow::Result<()> {
    let device = app.device()?;
    let place = place(&device, name).await?;
    attachments::save(app, &device.client, &place, command).await
}

pub(crate) async fn send(app: &App, name: &str, words: &[String]) -> anyhow::Result<()> {
    let device = app.device()?;
    let text = match words {
        [dash] if dash == "-" => read_input()?,
        words => words.join(" "),
    };
    let texts = to_messages(&text);
    ensure!(!texts.is_empty(), "there is nothing to send");
    let peer = device.peer(name).await?;
    let conversation = device.client.open_direct(&peer.user_id).await?;
    for text in texts {
        // Growing ids keep the messages in order; the client repeats a try under the same id.
        let message_id = uuid::Uuid::now_v7().to_string();
        let conversation_id = &conversation.conversation_id;
        let receipt = device
            .client
            .send_message(conversation_id, &message_id, &text)
            .await?;
        if app.json {
            app.object(&json!({
                "conversation_id": conversation_id,
                "message_id": message_id,
                "seq": receipt.seq,
                "message_index": receipt.message_index,
                "time_unix_ms": receipt.time_unix_ms,
                "duplicate": receipt.duplicate,
            }))?;
        } else {
            let time = app.clock.time(receipt.time_unix_ms);
            app.line(format!("{} {time}", shown_tick(app, Tick::Sent)))?;
        }
    }
    Ok(())
}

fn read_input() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let input = io::stdin().lock();
    input
        .take(INPUT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .context("cannot read the standard input")?;
    ensure!(
        bytes.len() as u64 <= INPUT_BYTES_MAX,
        "more than {INPUT_BYTES_MAX} bytes are no message"
    );
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}
