//! Several replicas of the service on one PostgreSQL.

use proto::error::v1::ErrorReason;
use runtime::postgres::PostgresConfig;
use servers::postgres::{Postgres, PostgresOptions};

use super::harness::*;
use crate::{
    config::Config,
    store::{Store, postgres::PostgresStore},
};

struct Replicas {
    one: Server,
    two: Server,
    _postgres: Postgres,
}

impl Replicas {
    async fn start(config: Config) -> Self {
        let postgres = Postgres::start(PostgresOptions::fast()).unwrap();
        postgres.create_database("profile").unwrap();
        let clock = runtime::clock::ManualClock::at(NOW);
        let log = std::sync::Arc::<TestLog>::default();
        let start = async || {
            let url = PostgresConfig::new(postgres.url("profile"));
            let store = PostgresStore::open(&url).await.unwrap();
            let store: std::sync::Arc<dyn Store> = std::sync::Arc::new(store);
            Server::on(config.clone(), store, log.clone(), clock.clone()).await
        };
        Self {
            one: start().await,
            two: start().await,
            _postgres: postgres,
        }
    }
}

#[tokio::test]
async fn replicas_give_a_name_the_guesses_of_one() {
    let replicas = Replicas::start(Config {
        failed_log_ins_burst: 6,
        // By the clock of the database: none comes back meanwhile.
        failed_log_in_every: std::time::Duration::from_secs(3_600),
        ..Server::config()
    })
    .await;
    let Replicas { one, two, .. } = &replicas;
    one.register("ann").await;
    // Of a name that exists and of one that does not.
    for name in ["ann", "nobody"] {
        for n in 0..6 {
            let server = if n % 2 == 0 { one } else { two };
            let guess = server.log_in(credentials(name, "wrong")).await;
            assert_eq!(reason(guess), ErrorReason::CredentialsInvalid, "{name} {n}");
        }
        for server in [one, two] {
            // Also the right one waits, whichever replica is asked, and asking costs nothing more.
            for _ in 0..6 {
                let refused = server
                    .log_in(credentials(name, PASSWORD))
                    .await
                    .unwrap_err();
                assert_eq!(refused.reason, ErrorReason::TooManyAttempts, "{name}");
                assert!(refused.retry_after.unwrap() <= std::time::Duration::from_secs(3_600));
            }
        }
    }
    // Nobody else waits, and a right password gives back what was taken, for all.
    one.register("bob").await;
    for _ in 0..5 {
        for server in [one, two] {
            let guess = server.log_in(credentials("bob", "wrong")).await;
            assert_eq!(reason(guess), ErrorReason::CredentialsInvalid);
        }
        for server in [one, two] {
            server.log_in(credentials("bob", PASSWORD)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_asks_two_replicas_at_once_stays_logged_in() {
    let replicas = Replicas::start(Server::config()).await;
    let Replicas { one, two, .. } = &replicas;
    let mut token = one.register("ann").await.tokens.unwrap().refresh_token;
    for _ in 0..10 {
        let (a, b) = tokio::join!(one.refresh(&token), two.refresh(&token));
        let (a, b) = (a.unwrap().refresh_token, b.unwrap().refresh_token);
        assert_ne!(a, b);
        // Whichever it kept is good, at the other replica.
        token = two.refresh(&a).await.unwrap().refresh_token;
    }
    // One that comes again after its successor was used is theft, whichever replica saw that.
    let next = one.refresh(&token).await.unwrap().refresh_token;
    two.refresh(&next).await.unwrap();
    let reused = one.refresh(&token).await;
    assert_eq!(reason(reused), ErrorReason::RefreshTokenReused);
    let gone = two.refresh(&next).await;
    assert_eq!(reason(gone), ErrorReason::DeviceRevoked);
    assert_eq!(one.log.records(1).await.len(), 1);
}
