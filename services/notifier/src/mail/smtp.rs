//! Hands mails to a server of SMTP, one at a time on each connection, and says what became of them.
//!
//! Commands are sent one by one and not by lettre's transport: what an answer means depends on the command
//! that it answers, which the transport does not tell. And a connection whose answer did not come in time
//! must never carry another mail, which would take that answer for its own: it is closed.

use std::{fs, num::NonZeroU32, path::PathBuf, time::Duration};

use lettre::{
    Address,
    message::Mailbox,
    transport::smtp::{
        Error,
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, Certificate, TlsParameters},
        commands::{Data, Mail, Rcpt, Rset},
        extension::ClientId,
        response::{Response, Severity},
    },
};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use self::reply::{Failure, Stage};
use super::{Sender, is_domain, parse_address};
use crate::providers::{
    SetupError,
    trust::{Blame, Trust},
};

mod reply;

/// How long a connection may take for each address of the server: three tries to reach the far side of
/// the earth.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long a connection is kept unused. Servers end silent ones after one to five minutes.
const IDLE_LIFE: Duration = Duration::from_secs(50);
/// What may be set of the time for a mail: a digest is claimed for five minutes, and whoever has not sent it by
/// then sends it beside others.
const DEADLINE_MAX: Duration = Duration::from_secs(2 * 60);
/// Mails on one connection. Servers end those that carry many, some after a hundred.
const MAILS_PER_CONNECTION_MAX: u32 = 100;
/// How long a kept connection may take to say that it lives: a firewall may have forgotten it silently.
const RESET_MAX: Duration = Duration::from_secs(5);
/// How long the polite end of a connection may take when the process ends.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// Passwords are sent in one of these ways, over TLS.
const MECHANISMS: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];

/// How the way to the server is protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// From the first byte; port 465.
    Implicit,
    /// The server is asked for it, and must agree; port 587.
    #[default]
    StartTls,
    /// Not; port 25. With a password only on this machine.
    None,
}

/// The server that takes mails. A key that is not here is an error.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmtpSettings {
    /// Its name, which its certificate must have.
    pub host: String,
    /// Left out: the port of `tls`.
    #[serde(default)]
    pub port: Option<u16>,
    /// `implicit`, `starttls` or `none`.
    #[serde(default)]
    pub tls: Tls,
    /// A certificate (PEM) that is believed besides those of the system: of a server of one's own.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Who logs in; with `password_file`.
    #[serde(default)]
    pub username: Option<String>,
    /// The file whose first line is the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// What this machine is called in the greeting. Left out: its name.
    #[serde(default)]
    pub hello_name: Option<String>,
    /// Whom mails are from: `Messenger <no-reply@example.org>`.
    pub from: String,
    /// The domain of envelope senders, whose server hears of bounces. Left out: that of `from`.
    #[serde(default)]
    pub bounce_domain: Option<String>,
    /// Connections of this process, which is also how many mails are under way.
    #[serde(default = "connections_max_default")]
    pub connections_max: NonZeroU32,
    /// How long one mail may take with all that belongs to it. What is given up may have been taken, so it
    /// is generous: servers look for spam before they answer.
    #[serde(
        rename = "deadline_ms",
        default = "deadline_default",
        deserialize_with = "millis"
    )]
    pub deadline: Duration,
}

fn connections_max_default() -> NonZeroU32 {
    NonZeroU32::new(4).unwrap_or(NonZeroU32::MIN)
}

const fn deadline_default() -> Duration {
    Duration::from_secs(60)
}

fn millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    NonZeroU32::deserialize(deserializer).map(|ms| Duration::from_millis(ms.get().into()))
}

/// What became of a mail. The texts are for the log, and contain no address and no words of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendOutcome {
    /// The server will deliver it, or say to the envelope's sender that it cannot.
    Taken,
    /// There is no such mailbox: nothing more is to be sent there.
    HardBounce(String),
    /// Not now, because of this mailbox: it is full, or its server wants to be asked later.
    SoftBounce(String),
    /// The mail will not be taken, and its recipient is not the reason: our settings, or a policy.
    Refused {
        /// No mail will be taken until an operator changes something: log-in, TLS, the greeting.
        settings: bool,
        /// What happened.
        why: String,
    },
    /// Not now, and no other mail either: away, overloaded, or the answer did not come. The mail may have
    /// been taken; sent again it must be the same bytes.
    Unavailable {
        /// How long to wait.
        after: Duration,
        /// What happened.
        why: String,
    },
}

/// A server of SMTP, with the connections that are kept to it.
pub struct Mailer {
    host: String,
    port: u16,
    security: Security,
    credentials: Option<Credentials>,
    hello_name: ClientId,
    sender: Sender,
    bounce_domain: String,
    deadline: Duration,
    /// One for each connection that may be open: who has none opens none.
    slots: Semaphore,
    idle: Mutex<Vec<Connection>>,
    trust: Trust,
}

enum Security {
    Implicit(TlsParameters),
    StartTls(TlsParameters),
    None,
}

/// A connection that is between two mails.
struct Connection {
    smtp: AsyncSmtpConnection,
    used: Instant,
    mails: u32,
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailer")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Mailer {
    /// Reads the credentials. Connects to nobody yet.
    pub fn open(settings: &SmtpSettings) -> Result<Self, SetupError> {
        let host = settings.host.as_str();
        let local = matches!(host, "127.0.0.1" | "localhost" | "::1");
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(wrong("host", "not a name of a host"));
        }
        if settings.deadline > DEADLINE_MAX {
            return Err(wrong("deadline_ms", "two minutes at most, 120000"));
        }
        let credentials = credentials(settings)?;
        if settings.tls == Tls::None && credentials.is_some() && !local {
            return Err(wrong("tls", "a password needs it, except on this machine"));
        }
        let (security, port) = match settings.tls {
            Tls::Implicit => (Security::Implicit(tls(settings)?), 465),
            Tls::StartTls => (Security::StartTls(tls(settings)?), 587),
            Tls::None => (Security::None, 25),
        };
        let sender = sender(&settings.from)?;
        let domain = |key, name: &String| match is_domain(name) {
            true => Ok(name.clone()),
            false => Err(wrong(key, "not a name of a domain")),
        };
        let hello_name = settings.hello_name.as_ref();
        let hello_name = hello_name
            .map(|name| domain("hello_name", name))
            .transpose()?;
        let bounce_domain = match &settings.bounce_domain {
            Some(name) => domain("bounce_domain", name)?,
            None => sender.address.domain().to_owned(),
        };
        let connections_max = usize::try_from(settings.connections_max.get()).unwrap_or(usize::MAX);
        Ok(Self {
            host: host.to_owned(),
            port: settings.port.unwrap_or(port),
            security,
            credentials,
            hello_name: hello_name.map_or_else(ClientId::default, ClientId::Domain),
            sender,
            bounce_domain,
            deadline: settings.deadline,
            slots: Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)),
            idle: Mutex::default(),
            trust: Trust::default(),
        })
    }

    /// Whom mails are from.
    pub const fn sender(&self) -> &Sender {
        &self.sender
    }

    /// The domain of envelope senders.
    pub fn bounce_domain(&self) -> &str {
        &self.bounce_domain
    }

    /// Hands over one mail, and ends at the deadline of the settings at the latest. Sending the same again
    /// may deliver it twice.
    pub async fn send(&self, envelope_from: &Address, to: &Address, mail: &[u8]) -> SendOutcome {
        match timeout(self.deadline, self.hand_over(envelope_from, to, mail)).await {
            Ok(Ok(())) => {
                self.trust.proven();
                SendOutcome::Taken
            }
            Ok(Err(failure)) => self.outcome(&failure),
            Err(_) => reply::lost(format!("no answer within {:?}", self.deadline)),
        }
    }

    /// Ends the connections that are kept, politely. More may be opened afterwards.
    pub async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        let end =
            futures_util::future::join_all(idle.into_iter().map(|mut connection| async move {
                connection.smtp.abort().await;
            }));
        // They are closed in any case.
        let _ = timeout(CLOSE_MAX, end).await;
    }

    /// What a failure means. A server that knows no mailbox at all is not the one that we take it for:
    /// nobody's address is given up for a mistake of ours.
    fn outcome(&self, failure: &Failure) -> SendOutcome {
        let outcome = failure.outcome();
        if !matches!(outcome, SendOutcome::HardBounce(_)) {
            return outcome;
        }
        let believed = match self.trust.blame() {
            Blame::Device => true,
            Blame::Unknown => failure.has_status(),
            Blame::Settings => false,
        };
        match outcome {
            SendOutcome::HardBounce(why) if !believed => SendOutcome::Refused {
                settings: false,
                why,
            },
            outcome => outcome,
        }
    }

    async fn hand_over(&self, from: &Address, to: &Address, mail: &[u8]) -> Result<(), Failure> {
        let _slot = self.slots.acquire().await.map_err(|_| Failure::closed())?;
        if let Some(connection) = self.kept().await {
            match self.transact(connection, from, to, mail).await {
                // Ended between two mails, as servers do. Nothing of this one was sent.
                Err(failure) if failure.is_end_before_content() => {}
                settled => return settled,
            }
        }
        let connection = self.connect().await?;
        self.transact(connection, from, to, mail).await
    }

    /// A connection that still lives, with nothing left on it of the mail before.
    async fn kept(&self) -> Option<Connection> {
        loop {
            let mut connection = self.idle.lock().pop()?;
            if connection.used.elapsed() < IDLE_LIFE
                && connection.mails < MAILS_PER_CONNECTION_MAX
                && reset(&mut connection.smtp).await
            {
                return Some(connection);
            }
        }
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let at = |stage| move |error| Failure::new(stage, &error);
        let implicit = match &self.security {
            Security::Implicit(tls) => Some(tls.clone()),
            Security::StartTls(_) | Security::None => None,
        };
        let server = (self.host.as_str(), self.port);
        let hello_name = &self.hello_name;
        let mut smtp = AsyncSmtpConnection::connect_tokio1(
            server,
            Some(CONNECT_MAX),
            hello_name,
            implicit,
            None,
        )
        .await
        .map_err(at(Stage::Connect))?;
        if let Security::StartTls(tls) = &self.security {
            smtp.starttls(tls.clone(), hello_name)
                .await
                .map_err(at(Stage::Connect))?;
        }
        if let Some(credentials) = &self.credentials {
            smtp.auth(&MECHANISMS, credentials)
                .await
                .map_err(at(Stage::LogIn))?;
        }
        Ok(Connection {
            smtp,
            used: Instant::now(),
            mails: 0,
        })
    }

    /// One mail on a connection, which is kept if the server has answered. If this is given up at any
    /// point, the connection is closed.
    async fn transact(
        &self,
        mut connection: Connection,
        from: &Address,
        to: &Address,
        mail: &[u8],
    ) -> Result<(), Failure> {
        let result = dialogue(&mut connection.smtp, from, to, mail).await;
        if result.as_ref().err().is_none_or(Failure::leaves_connection) {
            connection.used = Instant::now();
            connection.mails += 1;
            self.idle.lock().push(connection);
        }
        result
    }
}

/// Whether the server is still there, and has forgotten the mail before.
async fn reset(smtp: &mut AsyncSmtpConnection) -> bool {
    matches!(timeout(RESET_MAX, smtp.command(Rset)).await, Ok(Ok(_)))
}

async fn dialogue(
    smtp: &mut AsyncSmtpConnection,
    from: &Address,
    to: &Address,
    mail: &[u8],
) -> Result<(), Failure> {
    let mail_from = Mail::new(Some(from.clone()), Vec::new());
    done(Stage::Mail, smtp.command(mail_from).await)?;
    let rcpt_to = Rcpt::new(to.clone(), Vec::new());
    done(Stage::Recipient, smtp.command(rcpt_to).await)?;
    match smtp.command(Data).await {
        Ok(reply) if reply.has_code(354) => {}
        Ok(_) => return Err(Failure::out_of_step(Stage::Data)),
        Err(error) => return Err(Failure::new(Stage::Data, &error)),
    }
    // The line break before the last dot is lettre's.
    let mail = mail.strip_suffix(b"\r\n").unwrap_or(mail);
    done(Stage::Content, smtp.message(mail).await)
}

/// A success is one of 2xx. Whatever else is no failure answers something else, such as the 354 of `DATA`:
/// somebody has put an answer in before TLS began, or the server is confused. Then nothing is known.
fn done(stage: Stage, answer: Result<Response, Error>) -> Result<(), Failure> {
    match answer {
        Ok(reply) if reply.code().severity == Severity::PositiveCompletion => Ok(()),
        Ok(_) => Err(Failure::out_of_step(stage)),
        Err(error) => Err(Failure::new(stage, &error)),
    }
}

fn wrong(key: &'static str, problem: &str) -> SetupError {
    let problem = problem.to_owned();
    SetupError::Setting { key, problem }
}

fn sender(from: &str) -> Result<Sender, SetupError> {
    let mailbox: Mailbox = from.parse().map_err(|_| wrong("from", "not a mailbox"))?;
    let address = parse_address(mailbox.email.as_ref())
        .and_then(|address| address.parse().ok())
        .ok_or_else(|| wrong("from", "not an address of a domain"))?;
    let app_name = mailbox.name.unwrap_or_else(|| "Messenger".to_owned());
    Ok(Sender { app_name, address })
}

fn credentials(settings: &SmtpSettings) -> Result<Option<Credentials>, SetupError> {
    let (username, path) = match (&settings.username, &settings.password_file) {
        (Some(username), Some(path)) => (username, path),
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(wrong("password_file", "missing, with a username")),
        (None, Some(_)) => return Err(wrong("username", "missing, with a password_file")),
    };
    let text = String::from_utf8(read(path)?).unwrap_or_default();
    let password = text.lines().next().unwrap_or_default();
    if password.is_empty() {
        return Err(SetupError::Credential {
            path: path.clone(),
            problem: "no password in its first line".to_owned(),
        });
    }
    Ok(Some(Credentials::new(
        username.clone(),
        password.to_owned(),
    )))
}

fn tls(settings: &SmtpSettings) -> Result<TlsParameters, SetupError> {
    let mut builder = TlsParameters::builder(settings.host.clone());
    if let Some(path) = &settings.ca_file {
        let problem = |_| SetupError::Credential {
            path: path.clone(),
            problem: "not a certificate in PEM".to_owned(),
        };
        let certificate = Certificate::from_pem(&read(path)?).map_err(problem)?;
        builder = builder.add_root_certificate(certificate);
    }
    builder
        .build()
        .map_err(|error| wrong("tls", &error.to_string()))
}

fn read(path: &PathBuf) -> Result<Vec<u8>, SetupError> {
    fs::read(path).map_err(|source| SetupError::File {
        path: path.clone(),
        source,
    })
}

#[cfg(test)]
pub(super) mod tests;
