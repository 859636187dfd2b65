//! Accounts and devices for a run.

use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::{StreamExt, TryStreamExt, stream};
use proto::profile::v1::{
    LogInRequest, RegisterRequest, account_service_client::AccountServiceClient,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

/// Register and log-in calls at a time: hashing passwords keeps a core busy each, and more of them
/// than cores only wait.
const CALLS_AT_A_TIME: usize = 8;
/// How long one call may take: it may wait behind others that hash.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// Tries of a call that the server has no room for, each after a pause that doubles.
const TRIES_MAX: u32 = 12;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Devices that a user may have.
pub(crate) const DEVICES_PER_USER_MAX: usize = 50;
/// The accounts exist for one run; nobody else can reach them longer than the server's data lives.
const PASSWORD: &str = "a password for measuring";

/// A device that is logged in.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub(crate) user_id: String,
    pub(crate) access_token: String,
}

/// Makes users with so many devices each.
pub(crate) async fn create(
    servers: &[String],
    users: usize,
    devices_each: usize,
) -> anyhow::Result<Vec<Vec<Device>>> {
    let server = servers.first().context("no server")?;
    let channel = Endpoint::from_shared(server.clone())?
        .connect()
        .await
        .with_context(|| format!("no server at {server}"))?;
    let client = AccountServiceClient::new(channel);
    // The random half of a UUID: the times of two runs may be the same, these are not.
    let run = uuid::Uuid::new_v4().simple().to_string();
    let run = run.get(..10).unwrap_or_default();
    stream::iter(0..users)
        .map(|number| create_user(client.clone(), format!("load.{run}.{number}"), devices_each))
        .buffered(CALLS_AT_A_TIME)
        .try_collect()
        .await
}

async fn create_user(
    client: AccountServiceClient<Channel>,
    username: String,
    devices: usize,
) -> anyhow::Result<Vec<Device>> {
    let registered = retried("register", || {
        let mut client = client.clone();
        let request = deadlined(RegisterRequest {
            username: username.clone(),
            password: PASSWORD.to_owned(),
            display_name: String::new(),
            device_name: "load".to_owned(),
        });
        async move { client.register(request).await }
    })
    .await?;
    let user_id = registered.profile.unwrap_or_default().user_id;
    let device = |tokens: Option<proto::profile::v1::Tokens>| Device {
        user_id: user_id.clone(),
        access_token: tokens.unwrap_or_default().access_token,
    };
    let mut logged_in = vec![device(registered.tokens)];
    for _ in 1..devices {
        let answer = retried("log in", || {
            let mut client = client.clone();
            let request = deadlined(LogInRequest {
                username: username.clone(),
                password: PASSWORD.to_owned(),
                device_name: "load".to_owned(),
                device_id: String::new(),
            });
            async move { client.log_in(request).await }
        })
        .await?;
        logged_in.push(device(answer.tokens));
    }
    Ok(logged_in)
}

fn deadlined<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_DEADLINE);
    request
}

async fn retried<T, F>(what: &str, call: impl Fn() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let mut pause = FIRST_PAUSE;
    for _ in 0..TRIES_MAX {
        match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if is_retryable(&status) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(status) => {
                return Err(anyhow!("{what}: {:?}: {}", status.code(), status.message()));
            }
        }
    }
    Err(anyhow!(
        "{what}: the server had no room after {TRIES_MAX} tries"
    ))
}

fn is_retryable(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::ResourceExhausted | Code::Unavailable | Code::Aborted
    )
}
