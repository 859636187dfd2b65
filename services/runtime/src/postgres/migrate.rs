//! Migrations: once, under a lock, and never past what this program knows.

use std::time::Duration;

use sqlx::{
    ConnectOptions, Connection, PgConnection,
    migrate::{MigrateError, Migrator},
    postgres::PgConnectOptions,
};

use super::{Failure, OpenError, classify};

/// How long all migrations together may take. An index on a large table takes minutes.
const MIGRATION_MAX: Duration = Duration::from_secs(30 * 60);
/// How long to wait for another process that migrates, before coming again.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Runs what is missing, on a connection of its own: its lock goes with the connection, however
/// this ends, and it is not bound by the timeouts of the pool's.
pub(super) async fn run(
    options: PgConnectOptions,
    migrator: &Migrator,
    connect_timeout: Duration,
) -> Result<(), OpenError> {
    let options = options.options([
        ("statement_timeout", "0".to_owned()),
        ("lock_timeout", format!("{}ms", LOCK_WAIT.as_millis())),
    ]);
    let mut connection = tokio::time::timeout(connect_timeout, options.connect())
        .await
        .map_err(|_| silent(connect_timeout))?
        .map_err(|error| of_driver(&error))?;
    let migrated = tokio::time::timeout(MIGRATION_MAX, migrate(&mut connection, migrator)).await;
    // One that broke is closed by being dropped, and so is one that does not hear a farewell.
    let _ = tokio::time::timeout(connect_timeout, connection.close()).await;
    migrated.map_err(|_| silent(MIGRATION_MAX))?
}

async fn migrate(connection: &mut PgConnection, migrator: &Migrator) -> Result<(), OpenError> {
    let known = migrator.iter().map(|migration| migration.version).max();
    let known = known.unwrap_or(0);
    match migrator.run_direct(None, connection, false).await {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(missing)) => {
            let stored = stored_version(connection).await?;
            if stored > known {
                return Err(OpenError::NewerSchema { stored, known });
            }
            Err(OpenError::Migration(format!(
                "the database has version {missing}, which this program does not have"
            )))
        }
        Err(MigrateError::Execute(error)) => Err(of_driver(&error)),
        Err(MigrateError::ExecuteMigration(error, version)) => match classify(&error) {
            Failure::Unavailable | Failure::Conflict => Err(of_driver(&error)),
            _ => Err(OpenError::Migration(format!("version {version}: {error}"))),
        },
        Err(error) => Err(OpenError::Migration(error.to_string())),
    }
}

async fn stored_version(connection: &mut PgConnection) -> Result<i64, OpenError> {
    let version = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations");
    let version: Option<i64> = version
        .fetch_one(connection)
        .await
        .map_err(|error| of_driver(&error))?;
    Ok(version.unwrap_or(0))
}

fn of_driver(error: &sqlx::Error) -> OpenError {
    match classify(error) {
        Failure::Unavailable | Failure::Conflict => OpenError::Unavailable(error.to_string()),
        Failure::Unique | Failure::Lasting => OpenError::Migration(error.to_string()),
    }
}

fn silent(after: Duration) -> OpenError {
    OpenError::Unavailable(format!("no answer within {after:?}"))
}
