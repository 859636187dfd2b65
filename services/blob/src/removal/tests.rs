//! A model world: uploads, messages with receipts, deletions, a log that lags and repeats itself, readers
//! that start again, processes whose clocks differ, removals that fail at any point.
//!
//! Nothing that an accepted message needs may ever be gone, and in the end everything else is.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proto::log::v1::{EventReferences, ReferencesRecord, references_record};
use runtime::{
    clock::ManualClock,
    ids::{ConversationId, GroupId, UploadId, UserId},
};

use super::*;
use crate::{
    limits::RECEIPT_LIFE,
    model::{Blob, Purpose, Upload},
    references::{Said, decode},
    store::{Barrier, Begun, Finished, PositionAdvance, ReaderId, sqlite::SqliteStore},
};

mod fakes;

use fakes::{Entry, FakeObjects, MessagesLog};

const PARTITIONS: u32 = 2;
const HOUR: i64 = 60 * 60 * 1_000;
const START: i64 = 1_800_000_000_000;

#[derive(Debug, Clone)]
enum Op {
    /// A user uploads one of a few contents, perhaps with a poster, and gets a receipt; or crashes before.
    Upload {
        owner: u8,
        source: u8,
        poster: Option<prop::sample::Index>,
        crash: bool,
    },
    /// Finds a blob of his again, and gets another receipt.
    Keep {
        receipt: prop::sample::Index,
    },
    /// By an edge whose clock differs by so many minutes.
    Send {
        receipt: prop::sample::Index,
        conversation: u8,
        skew_minutes: i64,
    },
    Delete {
        event: prop::sample::Index,
    },
    Sequence {
        partition: u32,
        count: usize,
    },
    /// A sequencer starts again, or one that was replaced is late.
    Repeat {
        partition: u32,
        count: usize,
    },
    Read {
        partition: u32,
        count: usize,
    },
    /// The reader starts again further back.
    Reread {
        partition: u32,
        count: usize,
    },
    /// By a process whose clock differs.
    Round {
        fails: Option<(u8, bool)>,
        skew_minutes: i64,
    },
    Pass {
        minutes: i64,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let index = any::<prop::sample::Index>;
    let skew = || -29..=29_i64;
    let op = prop_oneof![
        4 => (0..2_u8, 0..4_u8, prop::option::of(index()), prop::bool::weighted(0.2))
            .prop_map(|(owner, source, poster, crash)| Op::Upload { owner, source, poster, crash }),
        1 => index().prop_map(|receipt| Op::Keep { receipt }),
        4 => (index(), 0..4_u8, skew())
            .prop_map(|(receipt, conversation, skew_minutes)| Op::Send { receipt, conversation, skew_minutes }),
        2 => index().prop_map(|event| Op::Delete { event }),
        4 => (0..PARTITIONS, 1..6_usize).prop_map(|(partition, count)| Op::Sequence { partition, count }),
        1 => (0..PARTITIONS, 1..9_usize).prop_map(|(partition, count)| Op::Repeat { partition, count }),
        4 => (0..PARTITIONS, 1..9_usize).prop_map(|(partition, count)| Op::Read { partition, count }),
        1 => (0..PARTITIONS, 1..9_usize).prop_map(|(partition, count)| Op::Reread { partition, count }),
        4 => (prop::option::of((0..3_u8, any::<bool>())), skew())
            .prop_map(|(fails, skew_minutes)| Op::Round { fails, skew_minutes }),
        3 => prop_oneof![1..90_i64, 20 * 60..30 * 60_i64].prop_map(|minutes| Op::Pass { minutes }),
    ];
    prop::collection::vec(op, 1..120)
}

struct World {
    store: Arc<SqliteStore>,
    objects: Arc<FakeObjects>,
    log: Arc<MessagesLog>,
    clock: ManualClock,
    removal: Removal,
    now: i64,
    /// What is given out: the blob, its owner, and until when.
    receipts: Vec<(BlobId, i64)>,
    videos: BTreeMap<BlobId, BlobId>,
    /// Accepted events that were not deleted.
    live: Vec<(ConversationId, u64, BlobId)>,
    references: [Vec<Vec<u8>>; PARTITIONS as usize],
    sequenced: [usize; PARTITIONS as usize],
    read: [usize; PARTITIONS as usize],
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("blob.db")).await;
        let store = Arc::new(store.unwrap());
        let (objects, log) = (
            Arc::new(FakeObjects::default()),
            Arc::new(MessagesLog::default()),
        );
        let clock = ManualClock::at(START);
        let removal = Removal::new(RemovalDeps {
            store: store.clone(),
            objects: objects.clone(),
            log: log.clone(),
            clock: Arc::new(clock.clone()),
        });
        Self {
            store,
            objects,
            log,
            clock,
            removal,
            now: START,
            receipts: Vec::new(),
            videos: BTreeMap::new(),
            live: Vec::new(),
            references: Default::default(),
            sequenced: Default::default(),
            read: Default::default(),
            _folder: folder,
        }
    }

    fn expiry(&self) -> i64 {
        self.now + i64::try_from(RECEIPT_LIFE.as_millis()).unwrap()
    }

    async fn carry_out(&mut self, op: Op) {
        match op {
            Op::Upload {
                owner,
                source,
                poster,
                crash,
            } => {
                self.upload(owner, source, poster, crash).await;
            }
            Op::Keep { receipt } => {
                if let Some((blob, _)) = self.pick(&receipt) {
                    let until = self.expiry();
                    if self.store.keep(blob, until).await.unwrap().is_some() {
                        self.receipts.push((blob, until));
                    }
                }
            }
            Op::Send {
                receipt,
                conversation,
                skew_minutes,
            } => {
                let edge_now = self.now + skew_minutes * 60_000;
                if let Some((blob, expires)) = self.pick(&receipt)
                    && edge_now < expires
                {
                    self.send(conversation, blob);
                }
            }
            Op::Delete { event } => {
                if !self.live.is_empty() {
                    let (conversation, seq, blob) =
                        self.live.swap_remove(event.index(self.live.len()));
                    let removed = true;
                    self.append(Entry::Event {
                        conversation,
                        seq,
                        blob,
                        removed,
                    });
                }
            }
            Op::Sequence { partition, count } => self.sequence(partition, count),
            Op::Repeat { partition, count } => {
                let at = partition as usize;
                let until = self.sequenced[at];
                self.emit(partition, until.saturating_sub(count), until);
            }
            Op::Read { partition, count } => {
                let from = self.read[partition as usize];
                self.read(partition, from, count).await;
            }
            Op::Reread { partition, count } => {
                let from = self.read[partition as usize].saturating_sub(count);
                self.read(partition, from, count).await;
            }
            Op::Round {
                fails,
                skew_minutes,
            } => {
                self.clock.set(self.now + skew_minutes * 60_000);
                *self.objects.fails.lock() = fails;
                let _ = self.removal.round().await;
                *self.objects.fails.lock() = None;
            }
            Op::Pass { minutes } => self.now += minutes * 60_000,
        }
    }

    fn pick(&self, at: &prop::sample::Index) -> Option<(BlobId, i64)> {
        (!self.receipts.is_empty()).then(|| self.receipts[at.index(self.receipts.len())])
    }

    async fn upload(
        &mut self,
        owner: u8,
        source: u8,
        poster: Option<prop::sample::Index>,
        crash: bool,
    ) {
        let until = self.expiry();
        // Its receipt is verified, and then it is kept: as a video's poster it is none of itself.
        let poster = match poster.and_then(|at| self.pick(&at)) {
            Some((blob, expires)) if self.now < expires && !self.videos.contains_key(&blob) => {
                Some(blob)
            }
            _ => None,
        };
        let upload = Upload {
            id: UploadId::generate(),
            owner: UserId::from_bytes([owner + 1; 16]),
            purpose: Purpose::Attachment,
            size_bytes: 9,
            source_sha256: [source; 32],
            blob: BlobId::generate(),
            begun_unix_ms: self.now,
            finished: false,
        };
        let begun = self
            .store
            .begin_upload(upload.clone(), 100, until)
            .await
            .unwrap();
        assert_eq!(begun, Begun::Upload(upload.clone(), None));
        self.objects.there.lock().insert(upload.blob);
        if crash {
            return;
        }
        let blob = Blob {
            poster,
            kept_until_unix_ms: until,
            created_unix_ms: self.now,
            look: None,
            ..crate::store::suite::blob_of(&upload)
        };
        match self.store.finish_upload(&upload, blob).await.unwrap() {
            Finished::Kept(blob) => {
                self.receipts.push((blob.id, until));
                if let Some(poster) = poster {
                    self.videos.insert(blob.id, poster);
                }
            }
            // The process dies before it has removed what it has.
            Finished::Twin(blob) => self.receipts.push((blob.id, until)),
            Finished::Gone => assert!(poster.is_some()),
        }
    }

    fn send(&mut self, conversation: u8, blob: BlobId) {
        let conversation = ConversationId::group(GroupId::from_bytes([conversation + 1; 16]));
        let partition = self
            .log
            .partition_of(Topic::Messages, conversation.as_bytes());
        let seq = self.log.0.lock().entry(partition).or_default().len() as u64 + 1;
        self.append(Entry::Event {
            conversation,
            seq,
            blob,
            removed: false,
        });
        self.live.push((conversation, seq, blob));
    }

    fn append(&self, entry: Entry) {
        let Entry::Event { conversation, .. } = &entry else {
            unreachable!();
        };
        let partition = self
            .log
            .partition_of(Topic::Messages, conversation.as_bytes());
        self.log.0.lock().entry(partition).or_default().push(entry);
    }

    fn sequence(&mut self, partition: u32, count: usize) {
        let from = self.sequenced[partition as usize];
        let end = self.log.0.lock().entry(partition).or_default().len();
        let to = end.min(from.saturating_add(count));
        self.emit(partition, from, to);
        self.sequenced[partition as usize] = to;
    }

    fn emit(&mut self, partition: u32, from: usize, to: usize) {
        let entries = self.log.0.lock().entry(partition).or_default()[from..to].to_vec();
        for entry in entries {
            let record = match entry {
                Entry::Event {
                    conversation,
                    seq,
                    blob,
                    removed,
                } => references_record::Record::Event(EventReferences {
                    conversation_id: conversation.as_bytes().to_vec(),
                    seq,
                    blob_ids: vec![blob.as_bytes().to_vec()],
                    removed,
                }),
                Entry::Barrier(as_of_unix_ms) => {
                    references_record::Record::Barrier(ReferenceBarrier { as_of_unix_ms })
                }
            };
            let record = ReferencesRecord {
                schema_version: 1,
                record: Some(record),
            };
            self.references[partition as usize].push(record.encode_to_vec());
        }
    }

    async fn read(&mut self, partition: u32, from: usize, count: usize) {
        let at = partition as usize;
        let to = self.references[at].len().min(from.saturating_add(count));
        let (mut references, mut barriers) = (Vec::new(), Vec::new());
        for payload in &self.references[at][from..to] {
            match decode(Topic::References, payload).unwrap() {
                Said::Reference(reference) => references.push(reference),
                Said::Barrier { as_of_unix_ms } => barriers.push(Barrier {
                    partition,
                    as_of_unix_ms,
                }),
                Said::Nothing => panic!("nothing is said"),
            }
        }
        let reader = ReaderId {
            reader: "references",
            topic: "references",
            partition,
        };
        let advance = PositionAdvance {
            reader,
            from: from as u64,
            to: to as u64,
        };
        self.store
            .apply(references, barriers, advance)
            .await
            .unwrap();
        self.read[at] = self.read[at].max(to);
    }

    /// What messages and good receipts need is there, bytes and all.
    async fn check(&self) {
        let mut needed: BTreeSet<BlobId> = self.live.iter().map(|(.., blob)| *blob).collect();
        let good = self
            .receipts
            .iter()
            .filter(|(_, expires)| self.now < *expires);
        needed.extend(good.map(|(blob, _)| *blob));
        let posters: Vec<BlobId> = needed
            .iter()
            .filter_map(|b| self.videos.get(b))
            .copied()
            .collect();
        needed.extend(posters);
        let there = self
            .store
            .blobs(needed.iter().copied().collect())
            .await
            .unwrap();
        let there: BTreeSet<BlobId> = there.iter().map(|blob| blob.id).collect();
        assert_eq!(there, needed);
        assert!(needed.is_subset(&self.objects.there.lock()));
    }

    /// Everything catches up, and all receipts expire.
    async fn settle(&mut self) {
        self.now += 40 * HOUR;
        for _ in 0..4 {
            self.now += 2 * HOUR;
            self.clock.set(self.now);
            for _ in 0..2 {
                self.removal.round().await.unwrap();
                for partition in 0..PARTITIONS {
                    self.sequence(partition, usize::MAX);
                    let from = self.read[partition as usize];
                    self.read(partition, from, usize::MAX).await;
                }
            }
            self.now += 2 * HOUR;
        }
        self.check().await;
        let mut needed: BTreeSet<BlobId> = self.live.iter().map(|(.., blob)| *blob).collect();
        let posters: Vec<BlobId> = needed
            .iter()
            .filter_map(|b| self.videos.get(b))
            .copied()
            .collect();
        needed.extend(posters);
        assert_eq!(
            *self.objects.there.lock(),
            needed,
            "something is left that nobody needs"
        );
        let left = self.store.leftovers(i64::MAX, 10).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { fork: false, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn nothing_goes_that_a_message_needs_and_in_the_end_nothing_else_is_left(ops in ops()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for op in ops {
                world.carry_out(op).await;
                world.check().await;
            }
            world.settle().await;
        });
    }
}

#[tokio::test]
async fn a_message_by_an_edge_whose_clock_is_behind_finds_its_blob() {
    let mut world = World::new().await;
    world.upload(0, 0, None, false).await;
    let (blob, expires) = world.receipts[0];
    world.now = expires + 10 * 60_000;
    // A process whose clock is before it, and all others that keep up.
    for _ in 0..3 {
        world.clock.set(world.now + 25 * 60_000);
        world.removal.round().await.unwrap();
        for partition in 0..PARTITIONS {
            world.sequence(partition, usize::MAX);
            let from = world.read[partition as usize];
            world.read(partition, from, usize::MAX).await;
        }
    }
    let by_the_edge = world.now - 25 * 60_000;
    assert!(by_the_edge < expires);
    world.send(0, blob);
    world.check().await;
    world.settle().await;
}

#[tokio::test]
async fn rounds_run_by_themselves_and_end_with_their_tasks() {
    let mut world = World::new().await;
    world.upload(0, 0, None, true).await;
    world.clock.set(START + 26 * HOUR);
    let tasks = Tasks::new();
    let removal = start(world.removal.deps.clone(), Duration::from_millis(5), &tasks);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    // Ended at first, and removed when nobody can write to it any more.
    while world.store.leftovers(i64::MAX, 1).await.unwrap().is_empty() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(world.objects.there.lock().len(), 1);
    world.clock.advance(2 * HOUR);
    while !world.objects.there.lock().is_empty() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(tasks.stop(Duration::from_secs(30)).await);
    assert_eq!(removal.round().await.unwrap(), Removed::default());
}
