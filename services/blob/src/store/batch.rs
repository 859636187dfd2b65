//! What a batch of records says in the end, each thing once: that is what both adapters write.

use std::collections::{BTreeMap, BTreeSet};

use runtime::ids::{BlobId, ConversationId};

use super::Barrier;
use crate::model::{PictureOf, Reference};

/// A batch of references and barriers, folded. Everything is in the order of its keys, so that rows are
/// locked in one order by everybody.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// By referrer and blob: whether it was removed.
    pub(super) events: BTreeMap<(Vec<u8>, BlobId), bool>,
    /// By kind and id: the largest version, and its blob.
    pub(super) pictures: BTreeMap<(u8, [u8; 16]), (u64, Option<BlobId>)>,
    /// By partition: the latest one.
    pub(super) barriers: BTreeMap<u32, i64>,
}

impl Batch {
    pub(super) fn of(references: Vec<Reference>, barriers: Vec<Barrier>) -> Self {
        let mut batch = Self::default();
        for reference in references {
            match reference {
                Reference::Event {
                    conversation,
                    seq,
                    blobs,
                    removed,
                } => {
                    let referrer = referrer(conversation, seq);
                    for blob in blobs {
                        *batch.events.entry((referrer.clone(), blob)).or_default() |= removed;
                    }
                }
                Reference::Picture { of, version, blob } => {
                    let said = (version, blob);
                    let picture = batch.pictures.entry(picture_key(of)).or_insert(said);
                    if version > picture.0 {
                        *picture = said;
                    }
                }
            }
        }
        for Barrier {
            partition,
            as_of_unix_ms,
        } in barriers
        {
            let latest = batch.barriers.entry(partition).or_insert(as_of_unix_ms);
            *latest = as_of_unix_ms.max(*latest);
        }
        batch
    }

    /// All blobs that are named.
    pub(super) fn blobs(&self) -> BTreeSet<BlobId> {
        let of_events = self.events.keys().map(|(_, blob)| *blob);
        let of_pictures = self.pictures.values().filter_map(|(_, blob)| *blob);
        of_events.chain(of_pictures).collect()
    }

    /// Those of the blobs that must be there, and are not among `there`.
    pub(super) fn missing(&self, there: &BTreeSet<BlobId>) -> Vec<BlobId> {
        let added = self.events.iter().filter(|(_, removed)| !**removed);
        let of_events = added.map(|((_, blob), _)| *blob);
        let of_pictures = self.pictures.values().filter_map(|(_, blob)| *blob);
        let needed: BTreeSet<BlobId> = of_events.chain(of_pictures).collect();
        needed.difference(there).copied().collect()
    }
}

/// What refers to the blobs of an event, as a column has it.
fn referrer(conversation: ConversationId, seq: u64) -> Vec<u8> {
    let mut referrer = conversation.as_bytes().to_vec();
    referrer.extend_from_slice(&seq.to_be_bytes());
    referrer
}

/// What refers to a picture, as columns have it.
fn picture_key(of: PictureOf) -> (u8, [u8; 16]) {
    match of {
        PictureOf::Group(group) => (1, *group.as_bytes()),
        PictureOf::User(user) => (2, *user.as_bytes()),
    }
}
