//! Accounts, credentials, devices and profiles. See README.md beside this crate.

use std::sync::Arc;

use event_log::EventLog;
use parking_lot::Mutex;
use proto::profile::v1::{
    account_service_server::AccountServiceServer, profile_service_server::ProfileServiceServer,
};
use runtime::{
    auth::{Access, KeyPair, ReceiptVerifier, UserKey},
    clock::Clock,
    ids::DeviceId,
    server::REQUEST_BYTES_MAX,
    shutdown::Tasks,
};
use tokio::sync::Notify;
use tonic::service::RoutesBuilder;

pub mod config;
pub mod devices;
pub mod error;
pub mod events;
mod grpc;
pub mod log_in;
pub mod model;
pub mod passwords;
pub mod profiles;
pub mod rate;
pub mod refresh;
pub mod register;
pub mod search;
pub mod store;
pub mod tokens;
pub mod validate;

pub use config::{Argon2Config, Config};

use crate::{
    error::Error,
    model::User,
    passwords::Passwords,
    rate::{Cell, Cells, Quota},
    store::Store,
    tokens::{TokenMaker, Tokens},
};

/// The names of the services that [`Profile::add_to`] adds.
pub const SERVICES: [&str; 2] = [
    "messenger.profile.v1.AccountService",
    "messenger.profile.v1.ProfileService",
];

/// What the service needs from its process.
pub struct Deps {
    /// Where accounts are kept.
    pub store: Arc<dyn Store>,
    /// Gets the facts of the topic `users`.
    pub log: Arc<dyn EventLog>,
    /// Dates tokens and devices.
    pub clock: Arc<dyn Clock>,
    /// Signs access tokens. Kept over restarts, or all access tokens are void after one.
    pub signing_key: KeyPair,
    /// Believes the receipts of pictures.
    pub receipts: ReceiptVerifier,
    /// Runs the relay of the outbox.
    pub tasks: Tasks,
}

/// The running service.
#[derive(Clone)]
pub struct Profile {
    accounts: Arc<Accounts>,
    receipts: ReceiptVerifier,
}

/// A device that has just logged in.
pub struct Session {
    /// Whose device.
    pub user: User,
    /// Which.
    pub device_id: DeviceId,
    /// For the device only.
    pub tokens: Tokens,
}

/// The verbs of the service; one file for each.
pub struct Accounts {
    config: Config,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    tokens: TokenMaker,
    /// Of the signing key, and the others that are published with it.
    public_keys: Vec<UserKey>,
    passwords: Passwords,
    log_in_attempts: Cells,
    log_in_quota: Quota,
    registrations: Mutex<Cell>,
    registration_quota: Quota,
    /// Told when there is a new fact.
    outbox: Arc<Notify>,
}

/// Starts the service: it relays its outbox from now on, and answers calls once it is served.
/// Fails if a setting makes no sense.
pub async fn start(config: Config, deps: Deps) -> Result<Profile, Error> {
    config.check()?;
    let accounts = Arc::new(Accounts {
        public_keys: public_keys(&deps.signing_key, &config.verification_keys)?,
        tokens: TokenMaker::new(deps.signing_key, &config),
        passwords: Passwords::new(&config).await?,
        log_in_attempts: Cells::default(),
        log_in_quota: Quota {
            burst: config.failed_log_ins_burst,
            every: config.failed_log_in_every,
        },
        registrations: Mutex::default(),
        registration_quota: Quota {
            burst: config.registrations_burst,
            every: config.registration_every,
        },
        outbox: Arc::default(),
        store: deps.store,
        clock: deps.clock,
        config,
    });
    deps.tasks.spawn(events::relay(
        accounts.store.clone(),
        deps.log,
        accounts.outbox.clone(),
        deps.tasks.stop_token(),
    ));
    Ok(Profile {
        accounts,
        receipts: deps.receipts,
    })
}

impl Profile {
    /// Adds the services to a listener, which must ask for tokens by [`policy`].
    pub fn add_to(&self, routes: &mut RoutesBuilder) {
        let grpc = grpc::Grpc::new(self.accounts.clone(), self.receipts.clone());
        let accounts = AccountServiceServer::new(grpc.clone());
        let profiles = ProfileServiceServer::new(grpc);
        routes
            .add_service(accounts.max_decoding_message_size(REQUEST_BYTES_MAX))
            .add_service(profiles.max_decoding_message_size(REQUEST_BYTES_MAX));
    }

    /// The keys that access tokens are verified with.
    pub fn public_keys(&self) -> Vec<UserKey> {
        self.accounts.public_keys()
    }
}

impl Accounts {
    /// The keys that access tokens are verified with.
    pub fn public_keys(&self) -> Vec<UserKey> {
        self.public_keys.clone()
    }
}

/// Each key once: one that was next and signs now may still be in the settings.
fn public_keys(signing: &KeyPair, others: &[String]) -> Result<Vec<UserKey>, Error> {
    let mut keys = vec![signing.user_key()];
    for pem in others {
        let key = UserKey::from_pem(pem)?;
        if keys.iter().all(|known| known.key_id != key.key_id) {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// Who may call which method; `None` for methods of others.
pub fn policy(path: &str) -> Option<Access> {
    let (service, method) = path
        .strip_prefix("/messenger.profile.v1.")?
        .split_once('/')?;
    match (service, method) {
        ("AccountService", "Register" | "LogIn" | "Refresh") => Some(Access::Public),
        ("AccountService", "LogOutDevice" | "ListDevices") => Some(Access::User),
        ("AccountService", "ListPublicKeys") => Some(Access::Service),
        ("ProfileService", "UpdateProfile") => Some(Access::User),
        ("ProfileService", "GetProfile" | "BatchGetProfiles" | "SearchProfiles") => {
            Some(Access::Any)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
