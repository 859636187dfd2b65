//! The server that takes mail, over a pool of connections.
//!
//! What an answer means is decided by its enhanced status (RFC 3463), which servers have said since 1996; the
//! three digits before it say too little: 550 is an address that does not exist, and mail that is not wanted.
//!
//! | answer | means |
//! |---|---|
//! | 2yz | taken |
//! | 5yz and 5.1.1, 5.1.2, 5.1.3, 5.1.6, 5.1.10, 5.2.1 | there is no such address: no mailbox, domain or syntax, moved away, takes no mail, disabled |
//! | 5.2.2, 4.2.z, 4.1.z, 4.3.1, and 550 to 554 that say no more | not now, or nobody knows: counted if it stays so |
//! | 4yz otherwise; no answer, no connection, no TLS; 530 to 538 and x.7.8: who we are | the server is away, or we are set wrongly: all mail waits |
//! | 5yz otherwise (5.7.z: policy) | this mail is refused: nobody's address is wrong |

use std::{path::PathBuf, time::Duration};

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Tokio1Executor,
    address::Envelope,
    transport::smtp::{
        Error, PoolConfig,
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
        extension::ClientId,
    },
};
use serde::Deserialize;

use crate::providers::SetupError;

/// How long a mail may take with everything that belongs to it, unless it is set: servers that look at mail before
/// they take it need seconds.
const DEADLINE_MS: u32 = 30_000;
/// Connections, unless it is set: servers of others often allow ten.
const CONNECTIONS_MAX: u32 = 4;
/// How long a connection is kept that nothing is sent over: below the five minutes that servers wait for a command.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// How a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// From its beginning: port 465.
    Implicit,
    /// After `STARTTLS`, and not at all without it: port 587.
    #[default]
    Starttls,
    /// Never: for a server on this machine.
    None,
}

/// Which server, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmtpSettings {
    /// Its name, which its certificate must have.
    pub host: String,
    /// Its port; that of the mode of TLS if it is left out (25 without).
    pub port: Option<u16>,
    /// How the connection is encrypted.
    #[serde(default)]
    pub tls: TlsMode,
    /// A file with the certificate of an authority of one's own, in PEM.
    pub ca_file: Option<PathBuf>,
    /// Who we are; needs `password_file`.
    pub username: Option<String>,
    /// A file with the password on its first line.
    pub password_file: Option<PathBuf>,
    /// The name that we say we have; that of this machine if it is left out.
    pub hello_name: Option<String>,
    /// Connections at the same time.
    #[serde(default = "connections_max")]
    pub connections_max: u32,
    /// How long a mail may take, in milliseconds.
    #[serde(default = "deadline_ms")]
    pub deadline_ms: u32,
}

const fn connections_max() -> u32 {
    CONNECTIONS_MAX
}

const fn deadline_ms() -> u32 {
    DEADLINE_MS
}

/// What became of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    /// The server has it.
    Taken,
    /// There is no such address.
    HardBounce,
    /// The address takes nothing now.
    SoftBounce,
    /// Not this mail, for no fault of the address.
    Refused,
    /// No mail can be sent now.
    Unavailable,
}

/// Sends mail. Clones share its connections.
#[derive(Clone)]
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    deadline: Duration,
}

impl Mailer {
    /// Connects to nobody yet.
    pub fn open(settings: &SmtpSettings) -> Result<Self, SetupError> {
        let (tls, port) = match settings.tls {
            TlsMode::Implicit => (Tls::Wrapper(tls_of(settings)?), 465),
            TlsMode::Starttls => (Tls::Required(tls_of(settings)?), 587),
            TlsMode::None => (Tls::None, 25),
        };
        let deadline = Duration::from_millis(settings.deadline_ms.into());
        let pool = PoolConfig::new()
            .max_size(settings.connections_max.max(1))
            .idle_timeout(IDLE_MAX);
        let mut builder =
            AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(settings.host.clone())
                .port(settings.port.unwrap_or(port))
                .tls(tls)
                .timeout(Some(deadline))
                .pool_config(pool);
        if let Some(name) = &settings.hello_name {
            builder = builder.hello_name(ClientId::Domain(name.clone()));
        }
        match (&settings.username, &settings.password_file) {
            (Some(username), Some(path)) => {
                let password = crate::providers::read(path)?;
                let password = password.lines().next().unwrap_or_default().to_owned();
                builder = builder.credentials(Credentials::new(username.clone(), password));
            }
            (None, None) => {}
            _ => {
                return Err(SetupError::Setting {
                    key: "mail.smtp.username",
                    problem: "needs password_file, and that needs it".to_owned(),
                });
            }
        }
        Ok(Self {
            transport: builder.build(),
            deadline,
        })
    }

    /// Sends a mail. Whatever happens, it answers within the deadline.
    pub async fn send(&self, envelope_from: &str, to: &str, mail: &[u8]) -> SendOutcome {
        let (Ok(from), Ok(to)) = (envelope_from.parse(), to.parse()) else {
            return SendOutcome::Refused;
        };
        let Ok(envelope) = Envelope::new(Some(from), vec![to]) else {
            return SendOutcome::Refused;
        };
        let sending = self.transport.send_raw(&envelope, mail);
        match tokio::time::timeout(self.deadline, sending).await {
            Ok(Ok(_)) => SendOutcome::Taken,
            Ok(Err(error)) => outcome(&error),
            Err(_) => SendOutcome::Unavailable,
        }
    }
}

fn tls_of(settings: &SmtpSettings) -> Result<TlsParameters, SetupError> {
    let client = |error: Error| SetupError::Client(error.to_string());
    let mut tls = TlsParameters::builder(settings.host.clone());
    if let Some(path) = &settings.ca_file {
        let pem = crate::providers::read(path)?;
        let certificate = Certificate::from_pem(pem.as_bytes()).map_err(client)?;
        tls = tls.add_root_certificate(certificate);
    }
    tls.build().map_err(client)
}

fn outcome(error: &Error) -> SendOutcome {
    let Some(code) = error.status().map(u16::from) else {
        return SendOutcome::Unavailable;
    };
    // What the server says in words may name the address: only its numbers are logged.
    let said = std::error::Error::source(error).map(ToString::to_string);
    let enhanced = said.as_deref().and_then(enhanced_status);
    let outcome = meaning(code, enhanced);
    tracing::debug!(code, ?enhanced, ?outcome, "a mail was not taken");
    outcome
}

/// The numbers that a server's words begin with: class, subject, detail.
fn enhanced_status(said: &str) -> Option<[u16; 3]> {
    let mut numbers = said.split_whitespace().next()?.split('.');
    let mut number = || numbers.next()?.parse::<u16>().ok();
    let status = [number()?, number()?, number()?];
    matches!(status[0], 2 | 4 | 5).then_some(status)
}

/// See the table above.
pub(crate) fn meaning(code: u16, enhanced: Option<[u16; 3]>) -> SendOutcome {
    match (code, enhanced) {
        (530..=538, _) | (_, Some([_, 7, 8])) => SendOutcome::Unavailable,
        (400..=499, Some([_, 1 | 2, _] | [_, 3, 1])) => SendOutcome::SoftBounce,
        (450 | 452, None) => SendOutcome::SoftBounce,
        (..500, _) => SendOutcome::Unavailable,
        (_, Some([_, 1, 1 | 2 | 3 | 6 | 10] | [_, 2, 1])) => SendOutcome::HardBounce,
        (_, Some([_, 2, 2])) | (550..=554, None) => SendOutcome::SoftBounce,
        _ => SendOutcome::Refused,
    }
}
