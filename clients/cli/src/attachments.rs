//! Pictures and videos: sent from files, saved into files, and what a line says of them.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use messenger_client::{
    Changed, Client, Download, Draft, Message, Progress, Tick, Upload, is_video,
    model::{Attachment, MessageRange, Order, Preview, Variant},
};
use serde_json::json;

use crate::{
    app::App,
    args::{Files, Saving},
    conversations::shown_tick,
    terminal::clean,
};

/// How the bar looks.
const BAR: &str = "{msg:<24} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}";
/// Messages that are looked through for the last one with attachments.
const LOOKED_THROUGH: i32 = 200;

/// Where a person sends to, and saves from.
pub(crate) struct Place {
    pub(crate) conversation_id: String,
    /// What the names of saved files begin with.
    pub(crate) file_stem: String,
}

/// A bar for bytes; none where nobody looks.
fn bar(app: &App, what: String) -> ProgressBar {
    let bar = ProgressBar::new(0);
    if app.json || !app.is_terminal {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    // The template is a constant; the default bar does, too.
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.total_bytes);
    bar.set_position(progress.done_bytes);
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    clean(&name).into_owned()
}

/// Uploads the files, and sends them as one message.
pub(crate) async fn attach(
    app: &App,
    client: &Client,
    place: &Place,
    command: &Files,
) -> anyhow::Result<()> {
    let mut draft = Draft::new(command.text.clone().unwrap_or_default());
    for path in &command.paths {
        let bar = bar(app, file_name(path));
        let upload = Upload::attachment(path.as_path());
        let uploaded = client
            .blobs()
            .upload(upload, |progress| show(&bar, progress))
            .await;
        bar.finish_and_clear();
        let uploaded = uploaded.with_context(|| file_name(path))?;
        draft = draft.attach(&uploaded);
        if !app.json {
            app.line(format!(
                "{}  {}",
                file_name(path),
                said(&uploaded.attachment())
            ))?;
        }
    }
    let message_id = uuid::Uuid::now_v7().to_string();
    let attachments: Vec<_> = draft
        .attachments
        .iter()
        .map(|drafted| object(&drafted.attachment))
        .collect();
    let receipt = client
        .send_message(&place.conversation_id, &message_id, draft)
        .await?;
    if app.json {
        return app.object(&json!({
            "conversation_id": place.conversation_id,
            "message_id": message_id,
            "seq": receipt.seq,
            "message_index": receipt.message_index,
            "time_unix_ms": receipt.time_unix_ms,
            "duplicate": receipt.duplicate,
            "attachments": attachments,
        }));
    }
    let time = app.clock.time(receipt.time_unix_ms);
    Ok(app.line(format!("{} {time}", shown_tick(app, Tick::Sent)))?)
}

/// Downloads what is attached to one message, each into a file of its own.
pub(crate) async fn save(
    app: &App,
    client: &Client,
    place: &Place,
    command: &Saving,
) -> anyhow::Result<()> {
    let message = find(client, place, command.message).await?;
    for (nth, attachment) in (1..).zip(&message.attachments) {
        let mut download = Download::attachment(&message, attachment);
        let mut extension = extension(&attachment.media_type);
        if command.thumbnail {
            let small = attachment.small.as_ref();
            let small = small.context("a video without a poster has no thumbnail")?;
            extension = self::extension(&small.media_type);
            download = download.variant(Variant::Small);
        }
        let (stem, index) = (&place.file_stem, message.message_index);
        let name = format!("{stem}-{index}-{nth}.{extension}");
        let path = command.to.join(&name);
        let bar = bar(app, name);
        let saved = client
            .blobs()
            .download(download, &path, |progress| show(&bar, progress))
            .await;
        bar.finish_and_clear();
        let saved = saved.with_context(|| path.display().to_string())?;
        if app.json {
            app.object(&json!({
                "path": path,
                "size_bytes": saved.size_bytes,
                "media_type": saved.media_type,
                "seq": message.seq,
                "message_index": message.message_index,
            }))?;
        } else {
            let size = size(saved.size_bytes);
            app.line(format!("{}  {size}", clean(&path.display().to_string())))?;
        }
    }
    Ok(())
}

/// The message with this index, or the last one with attachments.
async fn find(client: &Client, place: &Place, index: Option<u64>) -> anyhow::Result<Message> {
    let range = MessageRange {
        conversation_id: place.conversation_id.clone(),
        before_message_index: index.map_or(0, |index| index.saturating_add(1)),
        page_size: index.map_or(LOOKED_THROUGH, |_| 1),
        order: Order::NewestFirst.into(),
        ..MessageRange::default()
    };
    let page = client.list_messages(vec![range]).await?.pop();
    let mut messages = page.into_iter().flat_map(|page| page.messages);
    let Some(index) = index else {
        let with = messages.find(|message| !message.attachments.is_empty());
        let with = with.context("none of the last 200 messages has pictures or videos")?;
        return Ok(Message::from_shown(&place.conversation_id, with));
    };
    let message = messages.find(|message| message.message_index == index);
    let message = message.with_context(|| format!("there is no message #{index} for you"))?;
    ensure!(
        !message.attachments.is_empty(),
        "message #{index} has neither pictures nor videos"
    );
    Ok(Message::from_shown(&place.conversation_id, message))
}

/// Makes a file the picture of the own profile, or removes it.
pub(crate) async fn picture(app: &App, path: Option<&PathBuf>) -> anyhow::Result<()> {
    let device = app.device()?;
    let profile = match path {
        Some(path) => {
            let bar = bar(app, file_name(path));
            let set = device
                .client
                .set_profile_picture(path.as_path(), |progress| show(&bar, progress))
                .await;
            bar.finish_and_clear();
            set?
        }
        None => device.client.remove_profile_picture().await?,
    };
    if app.json {
        let object = json!({ "user_id": profile.user_id, "picture": profile.picture });
        return app.object(&object);
    }
    let what = if path.is_some() {
        "others see it now"
    } else {
        "removed"
    };
    Ok(app.line(what)?)
}

/// The same of a group.
pub(crate) async fn group_picture(
    app: &App,
    groups: &messenger_client::Groups,
    group_id: &str,
    path: Option<&PathBuf>,
) -> anyhow::Result<Changed> {
    let Some(path) = path else {
        let update = messenger_client::GroupUpdate {
            picture_receipt: Some(String::new()),
            ..messenger_client::GroupUpdate::default()
        };
        return Ok(groups.update(group_id, update).await?);
    };
    let bar = bar(app, file_name(path));
    let set = groups
        .set_picture(group_id, path.as_path(), |progress| show(&bar, progress))
        .await;
    bar.finish_and_clear();
    Ok(set?)
}

/// What a line says of a message besides its text; empty without attachments. The number is what `save`
/// takes.
pub(crate) fn marks(message: &Message) -> String {
    if message.attachments.is_empty() {
        return String::new();
    }
    let all: Vec<_> = message.attachments.iter().map(said).collect();
    format!("[{} #{}]", all.join(", "), message.message_index)
}

/// The text of a message and what it has besides, in one line.
pub(crate) fn line(message: &Message) -> String {
    let (text, marks) = (clean(&message.text), marks(message));
    match (text.is_empty(), marks.is_empty()) {
        (false, false) => format!("{text} {marks}"),
        (true, _) => marks,
        (false, true) => text.into_owned(),
    }
}

/// What a list says of the newest message.
pub(crate) fn preview(preview: &Preview) -> String {
    let (all, videos) = (preview.attachment_count, preview.video_count);
    let marks = match (all.saturating_sub(videos), videos) {
        (0, 0) => return clean(&preview.text).into_owned(),
        (1, 0) => "[picture]".to_owned(),
        (0, 1) => "[video]".to_owned(),
        (pictures, 0) => format!("[{pictures} pictures]"),
        (0, videos) => format!("[{videos} videos]"),
        _ => format!("[{all} pictures and videos]"),
    };
    match preview.text.is_empty() {
        true => marks,
        false => format!("{marks} {}", clean(&preview.text)),
    }
}

fn said(attachment: &Attachment) -> String {
    let size = size(attachment.size_bytes);
    match (is_video(attachment), attachment.width) {
        (true, _) => format!("video {size}"),
        (false, width) => format!("picture {width}x{} {size}", attachment.height),
    }
}

fn size(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

/// For machines.
pub(crate) fn object(attachment: &Attachment) -> serde_json::Value {
    json!({
        "blob_id": attachment.blob_id,
        "media_type": attachment.media_type,
        "size_bytes": attachment.size_bytes,
        "width": attachment.width,
        "height": attachment.height,
        "placeholder": attachment.placeholder,
    })
}

fn extension(media_type: &str) -> &'static str {
    match media_type {
        "image/jpeg" => "jpg",
        "image/png" => "png",
        "image/gif" => "gif",
        "image/webp" => "webp",
        "video/mp4" => "mp4",
        "video/quicktime" => "mov",
        "video/webm" => "webm",
        _ => "bin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_attached_and_which_message_it_is() {
        let picture = Attachment {
            media_type: "image/png".to_owned(),
            size_bytes: 240_000,
            width: 1_200,
            height: 800,
            ..Attachment::default()
        };
        let video = Attachment {
            media_type: "video/mp4".to_owned(),
            size_bytes: 3_100_000,
            ..Attachment::default()
        };
        let mut message = Message {
            conversation_id: "d:a:b".to_owned(),
            seq: 14,
            message_index: 12,
            time_unix_ms: 0,
            sender_id: "a".to_owned(),
            message_id: "m".to_owned(),
            text: "look\u{7}".to_owned(),
            mentioned_user_ids: Vec::new(),
            mentions_all: false,
            attachments: vec![picture, video],
        };
        let marks = "[picture 1200x800 240.00 kB, video 3.10 MB #12]";
        assert_eq!(line(&message), format!("look\u{fffd} {marks}"));
        message.text.clear();
        assert_eq!(line(&message), marks);
        message.attachments.clear();
        assert_eq!(line(&message), "");
    }
}
