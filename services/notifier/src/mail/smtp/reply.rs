//! What answers of a server of SMTP mean: RFC 5321 for the codes of three digits, RFC 3463 and the registry
//! that RFC 5248 began for the enhanced ones.
//!
//! | when | answer | outcome |
//! |---|---|---|
//! | any | 421, no answer, no connection | unavailable |
//! | before `MAIL` | 5xx; TLS or log-in fails | refused, by our settings |
//! | `MAIL` | 5xx | refused |
//! | from `RCPT` on | 550, 551, 553 or 556 with 5.1.1 (no mailbox), 5.1.2 (no domain), 5.1.3 (no address), 5.1.6 (moved), 5.1.10 (a domain without mail) | hard bounce |
//! | `RCPT` | 550 without an enhanced code | hard bounce, if the server has taken mails before |
//! | from `RCPT` on | 5.2.0, 5.2.1 (disabled), 5.2.2 (full) | soft bounce |
//! | `RCPT` | 552 without an enhanced code | soft bounce |
//! | from `RCPT` on | any other 5xx: 5.7.x, sizes, 5.1.0, 5.4.1 ... | refused |
//! | from `RCPT` on | 4.1.x, 4.2.x | soft bounce |
//! | `RCPT` | 450, 452 without an enhanced code | soft bounce |
//! | the mail itself | 450 without an enhanced code | soft bounce |
//! | any | any other 4xx: 4.3.x, 4.4.x, 4.7.x, 451 ... | unavailable |
//!
//! Senders of bulk mail agree on 5.1.1 to 5.1.3, 5.1.6 and 5.1.10 as reasons to give up an address at once;
//! some add all of 5.x.x, which gives up people for a policy or a mistake of ours. 5.1.0 and 5.4.1 are said of
//! dead mailboxes and of much else, 5.2.1 of mailboxes that come back, so none of them gives up anybody. 4.7.x
//! is greylisting or a limit on us: later, and nobody's fault.

use std::{error::Error as _, fmt, io, time::Duration};

use lettre::transport::smtp::Error;

use super::SendOutcome;

/// How long to wait for a server that is away: a restart takes less.
const AWAY_PAUSE: Duration = Duration::from_secs(30);
/// How long to wait for one that said that it cannot now. Greylisting wants five minutes.
const BUSY_PAUSE: Duration = Duration::from_secs(5 * 60);

/// What was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// The connection, its greeting and TLS.
    Connect,
    /// Who we are.
    LogIn,
    /// The envelope's sender.
    Mail,
    /// The recipient.
    Recipient,
    /// Whether a mail may come.
    Data,
    /// The mail.
    Content,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::LogIn => "AUTH",
            Self::Mail => "MAIL",
            Self::Recipient => "RCPT",
            Self::Data => "DATA",
            Self::Content => "the mail",
        })
    }
}

/// Why a mail was not taken.
#[derive(Debug)]
pub(super) struct Failure {
    stage: Stage,
    problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Problem {
    Reply(Reply),
    /// The server is not one that we can use as we are set up.
    Settings(String),
    /// No answer, or none of SMTP.
    Lost(String),
}

/// An answer: 550 and, if it has one, 5.1.1 without its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reply {
    code: u16,
    status: Option<(u16, u16)>,
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        match self.status {
            Some((subject, detail)) => write!(f, " {}.{subject}.{detail}", self.code / 100),
            None => Ok(()),
        }
    }
}

impl Failure {
    pub(super) fn new(stage: Stage, error: &Error) -> Self {
        let problem = match error.status() {
            Some(code) => {
                let text = error.source().map(ToString::to_string).unwrap_or_default();
                let code = u16::from(code);
                Problem::Reply(Reply {
                    code,
                    status: enhanced(code, &text),
                })
            }
            // lettre's own words: no STARTTLS, no way to log in that both know.
            None if error.is_client() => Problem::Settings(told(error)),
            None if is_tls(error) => Problem::Settings(format!("tls: {}", told(error))),
            // What came instead of an answer is not shown: it may be anything.
            None if error.is_response() => Problem::Lost("no answer of SMTP".to_owned()),
            None => Problem::Lost(told(error)),
        };
        Self { stage, problem }
    }

    /// There will be no connection.
    pub(super) fn closed() -> Self {
        Self {
            stage: Stage::Connect,
            problem: Problem::Lost("closed".to_owned()),
        }
    }

    /// What came answers something else.
    pub(super) fn out_of_step(stage: Stage) -> Self {
        Self {
            stage,
            problem: Problem::Lost("an answer to something else".to_owned()),
        }
    }

    /// The server said more than three digits.
    pub(super) const fn has_status(&self) -> bool {
        matches!(
            &self.problem,
            Problem::Reply(Reply {
                status: Some(_),
                ..
            })
        )
    }

    /// The connection ended while nothing of the mail was sent, or the server said that it ends it.
    pub(super) fn is_end_before_content(&self) -> bool {
        self.stage < Stage::Content
            && match &self.problem {
                Problem::Reply(reply) => reply.code == 421,
                Problem::Settings(_) => false,
                Problem::Lost(_) => true,
            }
    }

    /// The server has answered and waits for the next command.
    pub(super) const fn leaves_connection(&self) -> bool {
        matches!(&self.problem, Problem::Reply(reply) if reply.code != 421)
    }

    /// By the table above.
    pub(super) fn outcome(&self) -> SendOutcome {
        let why = |what: &dyn fmt::Display| format!("{what} at {}", self.stage);
        match &self.problem {
            Problem::Reply(reply) => by_reply(self.stage, *reply, why(reply)),
            Problem::Settings(what) => SendOutcome::Refused {
                settings: true,
                why: why(what),
            },
            Problem::Lost(what) => lost(why(what)),
        }
    }
}

/// The outcome if no answer came.
pub(super) const fn lost(why: String) -> SendOutcome {
    let after = AWAY_PAUSE;
    SendOutcome::Unavailable { after, why }
}

fn by_reply(stage: Stage, reply: Reply, why: String) -> SendOutcome {
    let of_mailbox = stage >= Stage::Recipient;
    let at_rcpt = stage == Stage::Recipient;
    match (reply.code, reply.status) {
        (550 | 551 | 553 | 556, Some((1, 1 | 2 | 3 | 6 | 10))) if of_mailbox => {
            SendOutcome::HardBounce(why)
        }
        (550, None) if at_rcpt => SendOutcome::HardBounce(why),
        (500..=599, Some((2, 0..=2))) if of_mailbox => SendOutcome::SoftBounce(why),
        (552, None) if at_rcpt => SendOutcome::SoftBounce(why),
        (500..=599, _) => SendOutcome::Refused {
            settings: stage < Stage::Mail,
            why,
        },
        (400..=420 | 422..=499, Some((1 | 2, _))) if of_mailbox => SendOutcome::SoftBounce(why),
        (450 | 452, None) if at_rcpt => SendOutcome::SoftBounce(why),
        (450, None) if stage == Stage::Content => SendOutcome::SoftBounce(why),
        _ => SendOutcome::Unavailable {
            after: BUSY_PAUSE,
            why,
        },
    }
}

/// The subject and detail of the enhanced code that a text begins with, if its class is that of the code
/// (RFC 2034, 4).
fn enhanced(code: u16, text: &str) -> Option<(u16, u16)> {
    let mut parts = text.split_whitespace().next()?.split('.');
    let mut number = || {
        let part = parts.next()?;
        let digits = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| part.parse::<u16>().ok()).flatten()
    };
    let (class, subject, detail) = (number()?, number()?, number()?);
    (class == code / 100 && parts.next().is_none()).then_some((subject, detail))
}

/// The handshake failed, or what came was no TLS.
fn is_tls(error: &Error) -> bool {
    if error.is_tls() {
        return true;
    }
    let mut cause = error.source();
    while let Some(inner) = cause {
        let io = inner
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if io.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        cause = inner.source();
    }
    false
}

/// The last cause of an error, which says it all.
fn told(error: &Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(inner) = last.source() {
        last = inner;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    enum Kind {
        Hard,
        Soft,
        Refused,
        Settings,
        Unavailable,
    }

    fn kind(stage: Stage, code: u16, text: &str) -> Kind {
        let status = enhanced(code, text);
        let problem = Problem::Reply(Reply { code, status });
        match (Failure { stage, problem }).outcome() {
            SendOutcome::HardBounce(_) => Kind::Hard,
            SendOutcome::SoftBounce(_) => Kind::Soft,
            SendOutcome::Refused { settings: true, .. } => Kind::Settings,
            SendOutcome::Refused { .. } => Kind::Refused,
            SendOutcome::Unavailable { .. } => Kind::Unavailable,
            SendOutcome::Taken => panic!("a failure is not taken"),
        }
    }

    /// As servers of some size say it.
    #[test]
    fn only_a_mailbox_that_is_not_there_is_given_up() {
        use Kind as K;
        use Stage as S;
        for (stage, code, text, expected) in [
            (
                S::Recipient,
                550,
                "5.1.1 The email account that you tried to reach does not exist",
                K::Hard,
            ),
            (S::Content, 550, "5.1.1 User unknown", K::Hard),
            (
                S::Recipient,
                550,
                "5.1.10 RESOLVER.ADR.RecipientNotFound",
                K::Hard,
            ),
            (
                S::Recipient,
                556,
                "5.1.10 Recipient address has null MX",
                K::Hard,
            ),
            (
                S::Recipient,
                553,
                "5.1.3 Bad destination mailbox address syntax",
                K::Hard,
            ),
            (
                S::Recipient,
                550,
                "5.1.2 Host or domain name not found",
                K::Hard,
            ),
            (S::Recipient, 551, "5.1.6 Mailbox has moved", K::Hard),
            (
                S::Recipient,
                550,
                "Requested action not taken: mailbox unavailable",
                K::Hard,
            ),
            (S::Content, 550, "Message rejected as spam", K::Refused),
            (S::Recipient, 551, "User not local", K::Refused),
            (
                S::Recipient,
                553,
                "sorry, that domain isn't in my list",
                K::Refused,
            ),
            (S::Recipient, 550, "5.1.0 Address rejected", K::Refused),
            (
                S::Recipient,
                550,
                "5.4.1 Recipient address rejected: Access denied",
                K::Refused,
            ),
            (S::Recipient, 550, "5.7.1 Relaying denied", K::Refused),
            (S::Recipient, 554, "5.7.1 Blocked", K::Refused),
            (S::Content, 550, "5.7.26 Unauthenticated sender", K::Refused),
            (
                S::Content,
                552,
                "5.3.4 Message size exceeds limit",
                K::Refused,
            ),
            (
                S::Content,
                552,
                "5.2.3 Message length exceeds limit",
                K::Refused,
            ),
            (S::Content, 552, "Too much mail data", K::Refused),
            (S::Mail, 550, "5.1.1 Sender unknown", K::Refused),
            (
                S::Mail,
                553,
                "5.1.8 Domain of sender does not exist",
                K::Refused,
            ),
            (
                S::Mail,
                530,
                "5.7.0 Must issue a STARTTLS command first",
                K::Refused,
            ),
            (
                S::LogIn,
                535,
                "5.7.8 Authentication credentials invalid",
                K::Settings,
            ),
            (S::Connect, 554, "No SMTP service here", K::Settings),
            (
                S::Recipient,
                552,
                "5.2.2 The email account is over quota",
                K::Soft,
            ),
            (S::Recipient, 552, "Mailbox full", K::Soft),
            (
                S::Recipient,
                550,
                "5.2.1 The email account is disabled",
                K::Soft,
            ),
            (
                S::Recipient,
                452,
                "4.2.2 The email account is out of storage space",
                K::Soft,
            ),
            (
                S::Recipient,
                450,
                "4.1.1 Recipient address rejected: unverified",
                K::Soft,
            ),
            (S::Recipient, 450, "mailbox busy", K::Soft),
            (S::Recipient, 452, "full", K::Soft),
            (S::Content, 450, "mailbox busy", K::Soft),
            (S::Recipient, 450, "4.7.1 Greylisted", K::Unavailable),
            (
                S::Recipient,
                421,
                "4.2.2 Too many connections",
                K::Unavailable,
            ),
            (
                S::Content,
                451,
                "4.3.0 Temporary lookup failure",
                K::Unavailable,
            ),
            (
                S::Content,
                452,
                "insufficient system storage",
                K::Unavailable,
            ),
            (
                S::Mail,
                452,
                "4.3.1 Insufficient system storage",
                K::Unavailable,
            ),
            (
                S::Mail,
                450,
                "4.1.8 Sender's domain not found",
                K::Unavailable,
            ),
            (
                S::LogIn,
                454,
                "4.7.0 Temporary authentication failure",
                K::Unavailable,
            ),
            (S::Connect, 421, "Service not available", K::Unavailable),
        ] {
            assert_eq!(
                kind(stage, code, text),
                expected,
                "{code} {text} at {stage}"
            );
        }
    }

    #[test]
    fn every_answer_that_is_no_success_has_an_outcome() {
        for stage in [
            Stage::Connect,
            Stage::LogIn,
            Stage::Mail,
            Stage::Recipient,
            Stage::Data,
            Stage::Content,
        ] {
            for code in 0..=1_000 {
                for (subject, detail) in [(0, 0), (1, 1), (2, 2), (7, 1), (999, 999)] {
                    let class = code / 100;
                    let hard =
                        kind(stage, code, &format!("{class}.{subject}.{detail} x")) == Kind::Hard;
                    let may = stage >= Stage::Recipient && (550..560).contains(&code);
                    assert!(!hard || may, "{code} at {stage}");
                }
            }
        }
    }

    #[test]
    fn an_enhanced_code_is_one_only_in_its_place_and_class() {
        assert_eq!(enhanced(550, "5.1.1 no such user"), Some((1, 1)));
        assert_eq!(enhanced(550, "5.1.1"), Some((1, 1)));
        for text in [
            "",
            "no 5.1.1",
            "4.1.1 x",
            "5.1 x",
            "5.1.1.1 x",
            "5.1.1111 x",
            "5.+1.1 x",
            "5..1 x",
        ] {
            assert_eq!(enhanced(550, text), None, "{text}");
        }
    }

    #[test]
    fn nothing_of_what_a_server_says_is_in_a_log() {
        let text = "5.1.1 <ada@example.org>: unknown";
        let status = enhanced(550, text);
        let failure = Failure {
            stage: Stage::Recipient,
            problem: Problem::Reply(Reply { code: 550, status }),
        };
        let expected = "550 5.1.1 at RCPT".to_owned();
        assert_eq!(failure.outcome(), SendOutcome::HardBounce(expected));
    }
}
