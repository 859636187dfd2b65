//! Requests to providers: connections that are kept, deadlines, and answers of bounded size.

use std::{error::Error as _, future::Future, time::Duration};

use reqwest::{Client, RequestBuilder, Url, header};

use super::SetupError;
use crate::{limits::PUSH_DEADLINE, push::Outcome};

/// Bytes of an answer that are read. Those that say why have some hundreds.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// How long a connection may take: three tries to reach the far side of the earth.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How often a connection is asked whether it lives, also while nothing is sent: a load balancer forgets
/// silent ones, and a push should not be what finds out.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long the answer to that may take, before the connection is given up with all that is under way.
const PING_MAX: Duration = Duration::from_secs(10);
/// Unused connections for each host: one of HTTP/2 carries all; HTTP/1.1 needs one for each at once.
const IDLE_MAX: usize = 64;
/// How long one is kept unused. Providers want them kept; making one anew costs more than keeping it.
const IDLE_LIFE: Duration = Duration::from_secs(60 * 60);

/// What a provider answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// How long it wants to be left alone.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Vec<u8>,
}

/// A client; clones share its connections.
#[derive(Debug, Clone)]
pub(super) struct Http {
    tls: Client,
    /// For what is on this machine, where nothing negotiates the version.
    clear: Client,
}

/// How the version of HTTP is found for a host that is reached by TLS.
#[derive(Debug, Clone, Copy)]
pub(super) enum Version {
    /// It is HTTP/2. Then one connection is made even if many pushes come at once; Apple takes many
    /// connections for an attack.
    Two,
    /// The host chooses.
    Negotiated,
}

impl Http {
    /// Connects to nobody yet.
    pub(super) fn new(version: Version) -> Result<Self, SetupError> {
        let client = |builder: reqwest::ClientBuilder| {
            builder
                .build()
                .map_err(|error| SetupError::Client(told(&error)))
        };
        let tls = match version {
            Version::Two => builder().http2_prior_knowledge(),
            Version::Negotiated => builder(),
        };
        Ok(Self {
            tls: client(tls.https_only(true))?,
            clear: client(builder().http2_prior_knowledge())?,
        })
    }

    /// A request with a body, to be completed.
    pub(super) fn post(&self, url: Url) -> RequestBuilder {
        match url.scheme() {
            "http" => self.clear.post(url),
            _ => self.tls.post(url),
        }
    }
}

fn builder() -> reqwest::ClientBuilder {
    Client::builder()
        .user_agent(concat!("messenger-notifier/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT_MAX)
        .tcp_nodelay(true)
        .pool_idle_timeout(IDLE_LIFE)
        .pool_max_idle_per_host(IDLE_MAX)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_MAX)
        .http2_keep_alive_while_idle(true)
}

/// Sends a request and reads the answer, which may lack the end of its body if it is a success. The error is for
/// the log and shows neither address nor token.
pub(super) async fn ask(request: RequestBuilder, now_unix_ms: i64) -> Result<Answer, String> {
    let mut response = request.send().await.map_err(|error| told(&error))?;
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| retry_after(value.to_str().ok()?, now_unix_ms));
    let mut body = Vec::new();
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            // It was taken; what more was to be said of that is of no use.
            Err(_) if response.status().is_success() => break,
            Err(error) => return Err(told(&error)),
        };
        let room = ANSWER_BYTES_MAX - body.len();
        body.extend(chunk.iter().take(room));
        if chunk.len() > room {
            break;
        }
    }
    Ok(Answer {
        status,
        retry_after,
        body,
    })
}

/// Ends at the deadline of a push, whatever it waits for.
pub(super) async fn within_deadline(push: impl Future<Output = Outcome>) -> Outcome {
    match tokio::time::timeout(PUSH_DEADLINE, push).await {
        Ok(outcome) => outcome,
        Err(_) => unavailable(None, format!("no answer within {PUSH_DEADLINE:?}")),
    }
}

pub(super) fn unavailable(after: Option<Duration>, why: impl Into<String>) -> Outcome {
    let why = why.into();
    Outcome::Unavailable { after, why }
}

/// What a status means that the provider gives no meaning of its own.
pub(super) fn by_status(answer: &Answer, why: String) -> Outcome {
    match answer.status {
        413 => Outcome::TooLarge,
        401 | 403 | 407 => Outcome::Unauthorized(why),
        429 => Outcome::TargetBusy {
            after: answer.retry_after,
        },
        // A redirection is not the provider's: somebody is in between.
        300..=399 | 408 | 421 | 425 | 500..=599 => unavailable(answer.retry_after, why),
        _ => Outcome::Refused(why),
    }
}

/// A word of theirs that goes into our log: of the form that theirs have, whatever they send.
pub(super) fn word(text: &str) -> String {
    let fits = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    text.chars().filter(fits).take(64).collect()
}

/// Where a provider is: its own address, or for tests one of this machine.
pub(super) fn base_url(key: &'static str, text: &str) -> Result<Url, SetupError> {
    let problem = |problem: &str| SetupError::Setting {
        key,
        problem: problem.to_owned(),
    };
    let url = Url::parse(text).map_err(|_| problem("not a URL"))?;
    let local = matches!(
        url.host_str(),
        Some("127.0.0.1" | "localhost" | "[::1]" | "::1")
    );
    match url.scheme() {
        "https" => {}
        "http" if local => {}
        _ => return Err(problem("must be https, or http on this machine")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(problem("must not contain a user"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(problem("must end with the path"));
    }
    Ok(url)
}

/// Seconds, or a date of RFC 9110.
fn retry_after(value: &str, now_unix_ms: i64) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(value)
        .ok()?;
    let left_ms = at.as_millisecond().saturating_sub(now_unix_ms);
    Some(Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)))
}

/// An error with its causes. The address is left out: it contains the token.
fn told(error: &reqwest::Error) -> String {
    let kind = match error {
        error if error.is_connect() => "cannot connect",
        error if error.is_timeout() => "timed out",
        _ => "no answer",
    };
    let mut text = kind.to_owned();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_understood_in_seconds_and_as_a_date() {
        let now_unix_ms = 1_700_000_000_000;
        let seconds = |value| retry_after(value, now_unix_ms).map(|after| after.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds("Tue, 14 Nov 2023 22:14:20 GMT"), Some(60));
        assert_eq!(seconds("Mon, 14 Nov 2022 22:14:20 GMT"), Some(0));
        assert_eq!(seconds("soon"), None);
        assert_eq!(seconds("-1"), None);
    }

    #[test]
    fn a_provider_is_reached_by_tls_unless_it_is_on_this_machine() {
        assert!(base_url("url", "https://api.push.apple.com").is_ok());
        assert!(base_url("url", "http://127.0.0.1:8080").is_ok());
        for bad in [
            "http://api.push.apple.com",
            "https://user@api.push.apple.com",
            "https://api.push.apple.com/?a",
            "ftp://127.0.0.1",
            "api.push.apple.com",
        ] {
            assert!(base_url("url", bad).is_err(), "{bad}");
        }
    }
}
