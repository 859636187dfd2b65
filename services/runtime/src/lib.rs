//! What every service process needs, without a noun of any service's domain.

pub mod auth;
pub mod channel;
pub mod clock;
pub mod ids;
pub mod page_token;
#[cfg(feature = "distributed")]
pub mod postgres;
pub mod server;
pub mod shutdown;
pub mod sqlite;
pub mod status;
pub mod telemetry;
