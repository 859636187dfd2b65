//! Mail: what it says (`message`), and the server that takes it (`smtp`).

mod message;
mod smtp;

pub use message::{
    Digest, DigestConversation, DigestLine, MessageError, Sender, confirmation, digest,
    parse_address,
};
pub use smtp::{Mailer, SendOutcome, SmtpSettings, TlsMode};

#[cfg(test)]
mod tests;
