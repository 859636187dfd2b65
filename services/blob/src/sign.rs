//! Who may see a blob, and where.
//!
//! Whether a user may read an event that has the blob is asked of messaging, with the user's own token:
//! there, and nowhere else, it is known who may read what, up to the last event.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use proto::messaging::v1::{
    EventRange, ListEventsRequest, event::Kind, messaging_service_client::MessagingServiceClient,
};
use runtime::{
    auth::UserCaller,
    ids::{BlobId, ConversationId},
    status::{ApiError, read_status},
};
use tonic::{Code, Request, metadata::AsciiMetadataValue};

use crate::{
    Service,
    model::{Blob, MediaType, Purpose, Variant},
    objects::ObjectKey,
};

/// Events that one look at a conversation brings at most.
const EVENTS_MAX: u64 = 200;
/// Conversations that are looked at at the same time, for one call.
const LOOKS_AT_ONCE: usize = 8;
/// How long a look may take: messaging waits 5 s for an event that it does not have yet.
const LOOK_DEADLINE: Duration = Duration::from_secs(8);

/// What somebody wants to see.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) blob: BlobId,
    pub(crate) variant: Variant,
    /// The event that has it.
    pub(crate) event: Option<(ConversationId, u64)>,
}

/// Where it is.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) url: String,
    pub(crate) expires_unix_ms: i64,
}

impl Blob {
    /// Under which name the bytes of a variant are kept, and what they are; `None` if there are none.
    pub(crate) fn place(&self, variant: Variant) -> Option<(ObjectKey, MediaType, u64)> {
        let thumbnail = |of: fn(&crate::model::Look) -> &crate::model::Thumbnail| {
            let found = of(self.look.as_ref()?);
            Some((found.media_type, found.size_bytes))
        };
        let (media_type, size_bytes) = match variant {
            Variant::Original => (self.media_type, self.size_bytes),
            Variant::Small => thumbnail(|look| &look.small)?,
            Variant::Large => thumbnail(|look| &look.large)?,
        };
        let blob = match (variant, self.poster) {
            // The thumbnails of a video are those of its poster.
            (Variant::Small | Variant::Large, Some(poster)) => poster,
            _ => self.id,
        };
        Some((ObjectKey { blob, variant }, media_type, size_bytes))
    }
}

impl Service {
    /// Where what is wanted is, in its order; `None` for what is not there or not for the caller.
    pub(crate) async fn locate(
        &self,
        caller: UserCaller,
        token: &AsciiMetadataValue,
        wanted: &[Wanted],
    ) -> Result<Vec<Option<Located>>, ApiError> {
        self.check_rate(&self.urls_rate, caller.user_id)?;
        let ids: BTreeSet<BlobId> = wanted.iter().map(|w| w.blob).collect();
        let blobs = self.store.blobs(ids.into_iter().collect()).await?;
        let blobs: HashMap<BlobId, Blob> = blobs.into_iter().map(|b| (b.id, b)).collect();
        let needs_event = |w: &&Wanted| {
            let blob = blobs.get(&w.blob);
            blob.is_some_and(|b| b.purpose != Purpose::Picture && b.owner != caller.user_id)
        };
        let mut events: BTreeMap<ConversationId, BTreeSet<u64>> = BTreeMap::new();
        for asked in wanted.iter().filter(needs_event) {
            if let Some((conversation, seq)) = asked.event {
                events.entry(conversation).or_default().insert(seq);
            }
        }
        let mut readable = HashSet::new();
        let mut looks = stream::iter(events)
            .map(|(conversation, seqs)| self.look(token, conversation, seqs))
            .buffer_unordered(LOOKS_AT_ONCE);
        while let Some(found) = looks.next().await {
            readable.extend(found?);
        }
        let mut located = Vec::with_capacity(wanted.len());
        for asked in wanted {
            let may_see = |blob: &&Blob| {
                blob.purpose == Purpose::Picture
                    || blob.owner == caller.user_id
                    || asked
                        .event
                        .is_some_and(|(c, seq)| readable.contains(&(c, seq, blob.id)))
            };
            located.push(match blobs.get(&asked.blob).filter(may_see) {
                Some(blob) => self.url(blob, asked.variant).await?,
                None => None,
            });
        }
        Ok(located)
    }

    /// The attachments of those of the events that the caller may read.
    async fn look(
        &self,
        token: &AsciiMetadataValue,
        conversation: ConversationId,
        mut seqs: BTreeSet<u64>,
    ) -> Result<Vec<(ConversationId, u64, BlobId)>, ApiError> {
        let mut found = Vec::new();
        while let Some(first) = seqs.first().copied() {
            let end = first.saturating_add(EVENTS_MAX);
            let later = seqs.split_off(&end);
            let last = seqs.last().copied().unwrap_or(first);
            let mut request = Request::new(ListEventsRequest {
                ranges: vec![EventRange {
                    conversation_id: conversation.to_string(),
                    after_seq: first.saturating_sub(1),
                    before_seq: last.saturating_add(1),
                    min_seq: last,
                    page_size: i32::try_from(last - first + 1).unwrap_or(i32::MAX),
                    order: 0,
                }],
            });
            request.set_timeout(LOOK_DEADLINE);
            request
                .metadata_mut()
                .insert("authorization", token.clone());
            let mut messaging = MessagingServiceClient::new(self.messaging.clone());
            let answer = match messaging.list_events(request).await {
                Ok(answer) => answer.into_inner(),
                Err(status) => match status.code() {
                    // Not a member, no such conversation: nothing to be seen.
                    Code::PermissionDenied | Code::NotFound | Code::InvalidArgument => {
                        return Ok(Vec::new());
                    }
                    _ => return Err(of_messaging(&status)),
                },
            };
            for event in answer.pages.into_iter().flat_map(|page| page.events) {
                let Some(Kind::Message(message)) = event.kind else {
                    continue;
                };
                for attachment in message.attachments {
                    if let Ok(blob) = BlobId::parse(&attachment.blob_id) {
                        found.push((conversation, event.seq, blob));
                    }
                }
            }
            seqs = later;
        }
        Ok(found)
    }

    async fn url(&self, blob: &Blob, variant: Variant) -> Result<Option<Located>, ApiError> {
        let Some((key, media_type, _)) = blob.place(variant) else {
            return Ok(None);
        };
        let now = self.clock.now_unix_ms();
        if self.config.direct_download {
            let life = self.config.url_life;
            if let Some(url) = self.objects.presign(key, media_type, life).await? {
                let life_ms = i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
                return Ok(Some(Located {
                    url,
                    expires_unix_ms: now.saturating_add(life_ms),
                }));
            }
        }
        let (path, expires_s) = self.urls.sign(blob.id, variant, media_type, now);
        let base = self.public_url.get().map_or("", String::as_str);
        Ok(Some(Located {
            url: format!("{base}{path}"),
            expires_unix_ms: expires_s.saturating_mul(1_000),
        }))
    }
}

/// Its errors are ours, as far as the caller can do something about them.
fn of_messaging(status: &tonic::Status) -> ApiError {
    let error = read_status(status);
    match error.retry_after {
        Some(_) => error,
        None => ApiError::unavailable(status),
    }
}
