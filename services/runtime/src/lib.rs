//! What every service process needs, without a noun of any service's domain.

pub mod auth;
pub mod channel;
pub mod clock;
#[cfg(feature = "distributed")]
pub mod config;
pub mod gateway;
pub mod http1;
pub mod ids;
pub mod page_token;
pub mod positions;
#[cfg(feature = "distributed")]
pub mod postgres;
#[cfg(feature = "distributed")]
pub mod process;
pub mod secret;
pub mod serde_ms;
pub mod server;
pub mod shards;
pub mod shutdown;
pub mod sqlite;
pub mod status;
pub mod telemetry;
pub mod trace;
