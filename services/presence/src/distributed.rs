//! The parts of a presence process, put together: what it needs is waited for, then it serves.

use std::sync::Arc;

use presence::{Deps, store::postgres::PostgresStore};
use runtime::{
    auth::{AuthLayer, ServiceIdentity, Verifier},
    clock::SystemClock,
    postgres::PostgresConfig,
    process::{Listening, ProcessConfig, STOP_DEADLINE, wait_for},
    server::ServerConfig,
    shutdown::{CancellationToken, Tasks},
};
use serde::Deserialize;
use tonic::service::RoutesBuilder;

/// The settings of a presence process.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The listener.
    server: ProcessConfig,
    /// The store.
    postgres: PostgresConfig,
    /// `host:port` of the replicas of profile, whose keys verify tokens of users.
    profile_addresses: Vec<String>,
    /// Presence itself.
    presence: presence::Config,
}
