//! What tests of the whole system share: servers to talk to, and clients that speak the bare
//! protocol, so that they can also say what no honest client says.
//!
//! Nothing here returns errors of its own: what does not happen by [`DEADLINE`], or goes otherwise
//! than a test said it must, panics and says what was awaited.

use std::time::{Duration, Instant};

mod account;
mod groups;
mod process;
mod proxy;
mod raw;
mod refusal;
mod server;
mod session;

pub use account::{Bearer, Device, Messaging, PASSWORD, connect, direct, register, try_register};
pub use groups::{Groups, request_id};
pub use process::{ServerProcess, StandaloneOptions, program};
pub use proxy::Proxy;
pub use raw::{call_raw, open_raw_session};
pub use refusal::{Refusal, documented_code, refused};
pub use server::{TestServer, TestServerBuilder};
pub use session::{Session, SessionOptions, hello, message};

/// How long anything may take that a test waits for: far above what it takes, so that only what
/// never happens meets it.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Pause between two looks at something that cannot be waited for otherwise.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks until `look` has an answer.
pub async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(answer) = within(what, look()).await {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "did not happen: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits for `future`, but not for ever.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("did not happen in time: {what}"),
    }
}
