//! What a notification says, by what its user lets it say.

use crate::{
    limits::{BODY_BYTES_MAX, TITLE_BYTES_MAX},
    model::PreviewDetail,
    push::Alert,
    record::Message,
};

/// Whose message it is, as people call them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'a> {
    /// The sender.
    pub(crate) sender: &'a str,
    /// The group it is in, if it is in one.
    pub(crate) group: Option<&'a str>,
}

/// The notification of a message and of those before it that are unread: `count` in all.
pub(crate) fn alert(
    message: &Message,
    count: u64,
    named: Named<'_>,
    detail: PreviewDetail,
    app_name: &str,
) -> Alert {
    let count = count.max(1);
    let title = match detail {
        PreviewDetail::Nothing => app_name,
        PreviewDetail::NameAndText | PreviewDetail::NameOnly => named.group.unwrap_or(named.sender),
    };
    let title = match count {
        1 => title.to_owned(),
        _ => format!("{title} ({count})"),
    };
    let body = match detail {
        PreviewDetail::NameAndText if !message.opaque => {
            let said = said(message);
            match named.group {
                Some(_) => format!("{}: {said}", named.sender),
                None => said,
            }
        }
        _ if count == 1 => "New message".to_owned(),
        _ => format!("{count} new messages"),
    };
    Alert {
        title: cut(title, TITLE_BYTES_MAX),
        body: cut(body, BODY_BYTES_MAX),
        count,
        seq: message.seq,
    }
}

/// The text of a message, or what it has instead of one.
fn said(message: &Message) -> String {
    if !message.text.is_empty() {
        return message.text.clone();
    }
    attached(message.attachment_count, message.video_count)
}

/// What is attached, in words.
pub(crate) fn attached(attachment_count: u32, video_count: u32) -> String {
    let pictures = attachment_count.saturating_sub(video_count);
    match (pictures, video_count) {
        (0, 0) => "New message".to_owned(),
        (1, 0) => "Picture".to_owned(),
        (0, 1) => "Video".to_owned(),
        (_, 0) => format!("{pictures} pictures"),
        (0, _) => format!("{video_count} videos"),
        _ => format!("{attachment_count} pictures and videos"),
    }
}

/// At most so many bytes, and whole characters.
pub(crate) fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max - '…'.len_utf8()));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use runtime::ids::UserId;

    use super::*;

    const SECRET: &str = "meet me at noon";

    fn message(text: &str) -> Message {
        Message {
            sender: UserId::from_bytes([2; 16]),
            seq: 7,
            mentioned_seq: 0,
            muted: false,
            opaque: false,
            text: text.to_owned(),
            attachment_count: 0,
            video_count: 0,
            payload: Bytes::new(),
        }
    }

    const ADA: Named<'static> = Named {
        sender: "Ada",
        group: None,
    };
    const CREW: Named<'static> = Named {
        sender: "Ada",
        group: Some("Crew"),
    };

    #[test]
    fn a_notification_says_as_much_as_its_user_lets_it_say() {
        let shown = |count, named, detail| {
            let alert = alert(&message(SECRET), count, named, detail, "Messenger");
            (alert.title, alert.body)
        };
        let say = |title: &str, body: &str| (title.to_owned(), body.to_owned());
        use PreviewDetail as D;
        assert_eq!(shown(1, ADA, D::NameAndText), say("Ada", SECRET));
        assert_eq!(shown(3, ADA, D::NameAndText), say("Ada (3)", SECRET));
        assert_eq!(
            shown(1, CREW, D::NameAndText),
            say("Crew", &format!("Ada: {SECRET}"))
        );
        assert_eq!(shown(1, ADA, D::NameOnly), say("Ada", "New message"));
        assert_eq!(
            shown(3, CREW, D::NameOnly),
            say("Crew (3)", "3 new messages")
        );
        assert_eq!(shown(1, CREW, D::Nothing), say("Messenger", "New message"));
        assert_eq!(
            shown(3, ADA, D::Nothing),
            say("Messenger (3)", "3 new messages")
        );
    }

    #[test]
    fn a_message_that_is_opaque_never_carries_a_preview() {
        let mut opaque = message(SECRET);
        opaque.opaque = true;
        for detail in [
            PreviewDetail::NameAndText,
            PreviewDetail::NameOnly,
            PreviewDetail::Nothing,
        ] {
            for named in [ADA, CREW] {
                let alert = alert(&opaque, 1, named, detail, "Messenger");
                assert!(!alert.body.contains(SECRET) && !alert.title.contains(SECRET));
            }
        }
    }

    #[test]
    fn pictures_without_a_text_are_counted() {
        let shown = |attachments, videos| {
            let mut message = message("");
            (message.attachment_count, message.video_count) = (attachments, videos);
            alert(&message, 1, ADA, PreviewDetail::NameAndText, "Messenger").body
        };
        assert_eq!(shown(1, 0), "Picture");
        assert_eq!(shown(2, 2), "2 videos");
        assert_eq!(shown(3, 1), "3 pictures and videos");
    }

    #[test]
    fn long_names_and_texts_are_cut_between_characters() {
        let long = "ü".repeat(5_000);
        let named = Named {
            sender: &long,
            group: Some(&long),
        };
        let alert = alert(
            &message(&long),
            1,
            named,
            PreviewDetail::NameAndText,
            "Messenger",
        );
        assert!(alert.title.len() <= TITLE_BYTES_MAX && alert.title.ends_with('…'));
        assert!(alert.body.len() <= BODY_BYTES_MAX && alert.body.ends_with('…'));
    }

    #[test]
    fn nothing_of_it_is_in_a_log() {
        let alert = alert(
            &message(SECRET),
            1,
            ADA,
            PreviewDetail::NameAndText,
            "Messenger",
        );
        let shown = format!("{alert:?}");
        assert!(!shown.contains(SECRET) && !shown.contains("Ada"), "{shown}");
    }
}
