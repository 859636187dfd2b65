//! Mails: their bytes, and the server that takes them. See "Mail" in the README of this crate.
//!
//! [`confirmation`] and [`digest`] are functions of what they are given: the same input gives the same
//! bytes, so a mail whose answer was lost is sent again as the same mail. [`Mailer::send`] hands one over.

use std::net::IpAddr;

pub use lettre::Address;

pub use self::{
    message::{
        CONVERSATIONS_MAX, Digest, DigestConversation, DigestLine, LINES_MAX, MailError, Sender,
        confirmation, digest, message_id,
    },
    smtp::{Mailer, SendOutcome, SmtpSettings, Tls},
};

mod message;
mod smtp;
mod templates;

/// Bytes of an address: a path of SMTP has 256 with its angle brackets (RFC 5321, 4.5.3.1.3).
pub const ADDRESS_BYTES_MAX: usize = 254;

/// The one form of an address that mails are sent to, with its domain in lower case. `None` if it is not
/// exactly one address of a mailbox at a domain with a name.
///
/// Narrower than the grammar of RFC 5321 on purpose: ASCII only, no quoted local parts, no addresses of
/// hosts, no domain of one label. What is left reads the same to every server, and has nothing in it that
/// means something in a header or a command.
pub fn parse_address(text: &str) -> Option<String> {
    let legible = |byte: u8| byte.is_ascii_graphic() && !b"\"(),:;<>[\\]".contains(&byte);
    if text.len() > ADDRESS_BYTES_MAX || !text.bytes().all(legible) {
        return None;
    }
    let (local, domain) = text.split_once('@')?;
    if !is_domain(domain) {
        return None;
    }
    let address = Address::new(local, domain.to_ascii_lowercase()).ok()?;
    Some(address.to_string())
}

/// Whether it is a name of a domain with two labels or more, and no number of a host.
fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253
        && text.contains('.')
        && text.split('.').all(label)
        && !last.bytes().all(|b| b.is_ascii_digit())
        && text.parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_one_mailbox_at_a_named_domain() {
        let parsed = |text: &str| parse_address(text);
        for good in [
            "ada@example.org",
            "a.b+c_d@mail.example.co",
            "o'neil@x-y.example",
            "a@1.example",
        ] {
            assert_eq!(parsed(good).as_deref(), Some(good), "{good}");
        }
        assert_eq!(
            parsed("Ada@EXAMPLE.Org").as_deref(),
            Some("Ada@example.org")
        );
        let longest = format!(
            "{}@{}.{}.{}.org",
            "a".repeat(64),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(57)
        );
        assert_eq!(longest.len(), ADDRESS_BYTES_MAX);
        assert!(parsed(&longest).is_some());
        for bad in [
            "",
            "ada",
            "@example.org",
            "ada@",
            "ada@localhost",
            "ada@example.org,bob@example.org",
            "ada@example.org bob@example.org",
            "Ada <ada@example.org>",
            "<ada@example.org>",
            "ada@[127.0.0.1]",
            "ada@127.0.0.1",
            "ada@[IPv6:::1]",
            "ada@1.2.3.4.5",
            "\"a da\"@example.org",
            "\"a\u{7}\"@example.org",
            "ada@bob@example.org",
            "ada@example.org\r\nBcc: eve@example.org",
            "ada\u{0}@example.org",
            "ädä@example.org",
            "ada@exämple.org",
            "ada@example..org",
            "ada@-example.org",
            "ada@example.org.",
            "a..b@example.org",
            ".a@example.org",
            &format!("{}@example.org", "a".repeat(65)),
            &format!("{longest}x"),
        ] {
            assert_eq!(parsed(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_parsed_address_is_its_own_form_and_fits_into_a_command(text in "[ -~]{0,12}@[ -~]{0,12}\\.[ -~]{1,4}") {
            if let Some(address) = parse_address(&text) {
                prop_assert_eq!(parse_address(&address), Some(address.clone()));
                prop_assert!(address.parse::<Address>().is_ok());
                prop_assert!(!address.contains(['<', '>', ' ', '"', ',']));
            }
        }
    }
}
