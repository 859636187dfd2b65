//! What every service process needs, without a noun of any service's domain.

pub mod auth;
pub mod channel;
pub mod clock;
pub mod ids;
pub mod page_token;
pub mod server;
pub mod shards;
pub mod shutdown;
pub mod sqlite;
pub mod status;
pub mod telemetry;
