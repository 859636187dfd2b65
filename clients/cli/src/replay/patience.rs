//! Calls that wait for a server that is away, as a restart in the middle of a replay makes it.

use std::time::{Duration, Instant};

use messenger_client::{Error, ErrorKind};

/// How long the server may be away: a restart takes seconds, and its log may be long.
pub(crate) const AWAY_MAX: Duration = Duration::from_secs(120);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(250);

/// Repeats a call that changes nothing, or the same, until the answer is definite.
pub(crate) async fn patiently<T, F>(call: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let end = Instant::now() + AWAY_MAX;
    loop {
        match call().await {
            Err(error) if error.kind() != ErrorKind::Rejected && Instant::now() < end => {
                tokio::time::sleep(error.retry_after().unwrap_or(PAUSE).max(PAUSE)).await;
            }
            answer => return answer,
        }
    }
}
