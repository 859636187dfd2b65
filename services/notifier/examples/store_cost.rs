//! What it costs the notifier's stores to know who was told of what:
//! `cargo run --release -p notifier --example store_cost -- sqlite`, or `postgres`: a server of its own that
//! syncs to the disk.
//!
//! One caller. A subject is a conversation on a device; of 200,000, whose ids lie anywhere. `new`: they are
//! told for the first time. `again`: any of them, a second later each time. `hot`: the same 2,000 all the
//! time. `asked`: a round of a reader, 200 users: their targets, what they want, and what they were told.
//! `held`: records that are put off, claimed and forgotten, 512 at a time.
//!
//! On two busy cores, with our crates not optimised, a second:
//!
//! | | SQLite | PostgreSQL |
//! |---|---|---|
//! | new | 60,000-100,000 | 90,000-120,000 |
//! | again | 24,000-32,000 | 60,000-70,000 |
//! | hot | 70,000-90,000 | 141,000-148,000 |
//! | asked, users | 73,000-84,000 | 40,000-64,000 |
//! | held | 79,000-117,000 | 25,000-47,000 |

use std::{error::Error, time::Instant};

use bytes::Bytes;
use notifier::{
    model::{DeviceSubject, DeviceTarget, Held, ProviderKind, Subject, Target, Told},
    store::{Settled, Store, postgres::PostgresStore, sqlite::SqliteStore},
};
use runtime::{
    ids::{ConversationId, DeviceId, GroupId, UserId},
    postgres::PostgresConfig,
};
use servers::postgres::{Postgres, PostgresOptions};
use sha2::{Digest, Sha256};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Conversations on devices.
const SUBJECTS: u64 = 200_000;
/// Of them, those that are told of all the time.
const HOT: u64 = 2_000;
/// Subjects that are settled at a time.
const BATCH: u64 = 500;
/// Users that a reader asks for at a time.
const ROUND: u64 = 200;
/// Records that are released at a time.
const RELEASE: u64 = 512;
/// When it begins.
const NOW: i64 = 1_800_000_000_000;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let which = std::env::args().nth(1).unwrap_or_default();
    if which == "postgres" {
        let server = Postgres::start(PostgresOptions::durable())?;
        server.create_database("notifier")?;
        let config = PostgresConfig::new(server.url("notifier"));
        measure(&PostgresStore::open(&config).await?).await
    } else {
        let folder = tempfile::tempdir()?;
        measure(&SqliteStore::open(&folder.path().join("notifier.db")).await?).await
    }
}

/// 16 bytes that lie anywhere, the same for the same number.
fn anywhere(kind: &str, number: u64) -> [u8; 16] {
    let hash = Sha256::new_with_prefix(kind).chain_update(number.to_be_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    bytes
}

fn subject(number: u64) -> DeviceSubject {
    // A user has some conversations.
    let user = UserId::from_bytes(anywhere("user", number / 10));
    let group = GroupId::from_bytes(anywhere("group", number));
    DeviceSubject {
        subject: Subject {
            user,
            conversation: ConversationId::group(group),
        },
        device: DeviceId::from_bytes(anywhere("device", number / 10)),
    }
}

fn settled(numbers: impl Iterator<Item = u64>, seq: u64) -> Settled {
    let told = Told {
        seq,
        read_seq: seq / 2,
    };
    Settled {
        told: numbers.map(|number| (subject(number), told)).collect(),
        ..Settled::default()
    }
}

fn say(what: &str, batches: u64, each: u64, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    let (per_second, ms) = (
        (batches * each) as f64 / seconds,
        seconds * 1_000.0 / batches as f64,
    );
    println!("{what:8} {per_second:10.0} a second, {ms:8.2} ms for {each}");
}

async fn measure(store: &dyn Store) -> Result<()> {
    let since = Instant::now();
    for batch in 0..SUBJECTS / BATCH {
        let numbers = batch * BATCH..(batch + 1) * BATCH;
        store.settle(settled(numbers, 1), NOW).await?;
    }
    say("new", SUBJECTS / BATCH, BATCH, since);
    for (what, of, batches) in [("again", SUBJECTS, 200_u64), ("hot", HOT, 200)] {
        let since = Instant::now();
        for (batch, now) in (1..=batches).zip(NOW..) {
            // A step that has no common divisor with their number.
            let numbers = (0..BATCH).map(|at| (batch * BATCH + at) * 7_919 % of);
            let now = now + 1_000 * i64::try_from(batch)?;
            store.settle(settled(numbers, batch + 1), now).await?;
        }
        say(what, batches, BATCH, since);
    }
    asked(store).await?;
    held(store).await
}

async fn asked(store: &dyn Store) -> Result<()> {
    for user in 0..SUBJECTS / 10 / 10 {
        let of = subject(user * 10);
        let target = DeviceTarget {
            user: of.subject.user,
            device: of.device,
            target: Target::Fcm {
                registration_token: format!(
                    "a token of about as many bytes as they have {user:0200}"
                ),
            },
        };
        store.put_target(target, NOW).await?;
    }
    let (since, rounds) = (Instant::now(), 100);
    for round in 0..rounds {
        let subjects = (0..ROUND).map(|at| subject((round * ROUND + at) * 7_919 % SUBJECTS));
        let subjects: Vec<DeviceSubject> = subjects.collect();
        let users: Vec<UserId> = subjects.iter().map(|of| of.subject.user).collect();
        store.targets(ProviderKind::Fcm, users.clone()).await?;
        store.preferences(users).await?;
        store.told(subjects).await?;
    }
    say("asked", rounds, ROUND, since);
    Ok(())
}

async fn held(store: &dyn Store) -> Result<()> {
    let (since, rounds) = (Instant::now(), 40);
    for round in 0..rounds {
        let held = (0..RELEASE).map(|at| Held {
            subject: subject(round * RELEASE + at).subject,
            seq: 1,
            due_unix_ms: NOW,
            payload: Bytes::from_static(&[7; 300]),
        });
        let settled = Settled {
            held: held.collect(),
            ..Settled::default()
        };
        store.settle(settled, NOW).await?;
        let (lease, limit) = (NOW + 60_000, usize::try_from(RELEASE)?);
        let claimed = store.claim_held(NOW, lease, limit).await?;
        let claimed = claimed.into_iter().map(|held| held.subject).collect();
        store.forget_held(claimed, lease).await?;
    }
    say("held", rounds, RELEASE, since);
    Ok(())
}
