//! Keeps the public keys of user tokens fresh.

use std::time::Duration;

use proto::profile::v1::{ListPublicKeysRequest, account_service_client::AccountServiceClient};

use super::{ServiceChannel, UserKey, Verifier};
use crate::shutdown::Tasks;

/// How often the keys are asked for: a new one is published longer than this before it is used.
const KEYS_REFRESHED_EVERY: Duration = Duration::from_secs(3 * 60);
/// Pause between two questions, also when tokens with unknown keys ask for one.
const KEYS_REFRESH_PAUSE: Duration = Duration::from_secs(5);
/// The pauses between attempts while profile does not answer.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long one question may take.
const KEYS_DEADLINE: Duration = Duration::from_secs(5);

/// Runs a task that asks profile for its keys: at once, every few minutes, and when a token names
/// an unknown one.
pub fn keep_user_keys(verifier: Verifier, profile: ServiceChannel, tasks: &Tasks) {
    let stop = tasks.stop_token();
    tasks.spawn(async move {
        stop.run_until_cancelled(refresh(verifier, profile)).await;
    });
}

async fn refresh(verifier: Verifier, profile: ServiceChannel) {
    let mut client = AccountServiceClient::new(profile);
    let mut pause = RETRY_FIRST;
    let mut away = false;
    loop {
        let fetched = fetch(&verifier, &mut client).await;
        // Once, and not again for each attempt.
        match &fetched {
            Ok(()) if away => tracing::info!("public keys are fetched again"),
            Err(reason) if !away => tracing::warn!(reason, "public keys not fetched"),
            _ => {}
        }
        away = fetched.is_err();
        if !away {
            pause = RETRY_FIRST;
            tokio::time::sleep(KEYS_REFRESH_PAUSE).await;
            let rest = KEYS_REFRESHED_EVERY.saturating_sub(KEYS_REFRESH_PAUSE);
            let _ = tokio::time::timeout(rest, verifier.key_missing()).await;
        } else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}

async fn fetch(
    verifier: &Verifier,
    client: &mut AccountServiceClient<ServiceChannel>,
) -> Result<(), String> {
    let call = client.list_public_keys(ListPublicKeysRequest {});
    let answer = match tokio::time::timeout(KEYS_DEADLINE, call).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => return Err(format!("{:?}", status.code())),
        Err(elapsed) => return Err(elapsed.to_string()),
    };
    let keys = answer.keys.into_iter().map(|key| UserKey {
        key_id: key.key_id,
        pem: key.pem,
    });
    let set = verifier.set_user_keys(keys.collect());
    set.map_err(|error| error.to_string())
}
