//! The pictures of a replay's messages: uploaded before they are sent, and looked at afterwards on
//! somebody else's device.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use messenger_client::{Client, Download, Draft, Upload, Uploaded, model::Attachment};
use serde::Serialize;

use super::{cast::Actor, patience::AWAY_MAX, pictures::Gallery};

/// Uploads and downloads at a time.
const AT_A_TIME: usize = 8;
/// Examples that are kept: the first ones tell the most.
const EXAMPLES_MAX: usize = 10;

/// What was attached, and what became of it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    /// In acknowledged messages.
    pub(crate) attachments: usize,
    /// That another user's device and one of the sender's own have downloaded, byte for byte the same,
    /// with the size and the hash that the message says, upright, and without what they said beside their
    /// pixels.
    pub(crate) attachments_verified: usize,
    pub(crate) attachments_wrong: usize,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.attachments += other.attachments;
        self.attachments_verified += other.attachments_verified;
        self.attachments_wrong += other.attachments_wrong;
    }

    /// Whether all is as it has to be; also if nothing was attached.
    pub(crate) fn is_good(&self) -> bool {
        self.attachments_wrong == 0 && self.attachments_verified == self.attachments
    }
}

/// The attachments of the messages of a log, by the place of the message.
#[derive(Default)]
pub(crate) struct Attached {
    of_message: BTreeMap<usize, Vec<(usize, Uploaded)>>,
}

impl Attached {
    /// Uploads all pictures: `authors` are those of the messages, in their order. Each author uploads a
    /// picture once, however often he sends it.
    pub(crate) async fn upload(
        actors: &[Actor],
        log: &str,
        authors: impl Iterator<Item = usize>,
        gallery: &Gallery,
        progress: impl FnOnce(usize) -> ProgressBar,
    ) -> anyhow::Result<Self> {
        let mut wanted = Vec::new();
        for (place, author) in authors.enumerate() {
            let pictures = gallery.of_message(log, place);
            wanted.extend(pictures.into_iter().map(|picture| (place, author, picture)));
        }
        let mut distinct: Vec<_> = wanted
            .iter()
            .map(|(_, author, picture)| (*author, *picture))
            .collect();
        distinct.sort_unstable();
        distinct.dedup();
        let bar = progress(distinct.len());
        let uploads = stream::iter(distinct).map(|(author, picture)| {
            let bar = &bar;
            async move {
                let seat = actors[author].seats.first().context("a connected device")?;
                let made = gallery.picture(picture).context("a picture")?;
                let blobs = seat.client.blobs().patience(AWAY_MAX);
                let upload = Upload::attachment(made.bytes.clone());
                let uploaded = blobs.upload(upload, |_| ()).await;
                bar.inc(1);
                let uploaded = uploaded.context("a picture could not be uploaded")?;
                anyhow::Ok(((author, picture), uploaded))
            }
        });
        let uploads = uploads.buffer_unordered(AT_A_TIME);
        let uploaded: HashMap<_, _> = uploads.try_collect().await?;
        bar.finish_and_clear();
        let mut of_message: BTreeMap<usize, Vec<_>> = BTreeMap::new();
        for (place, author, picture) in wanted {
            let uploaded = uploaded.get(&(author, picture)).context("an upload")?;
            let of_place = of_message.entry(place).or_default();
            of_place.push((picture, uploaded.clone()));
        }
        Ok(Self { of_message })
    }

    /// The message at this place with what it has, and the pictures that these are.
    pub(crate) fn draft(&self, place: usize, text: &str) -> (Draft, Vec<Shown>) {
        let mut draft = Draft::from(text);
        let mut shown = Vec::new();
        for (picture, uploaded) in self.of_message.get(&place).into_iter().flatten() {
            draft = draft.attach(uploaded);
            let attachment = uploaded.attachment();
            let picture = *picture;
            shown.push(Shown {
                picture,
                attachment,
            });
        }
        (draft, shown)
    }
}

/// An attachment as its sender knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    /// In the gallery.
    pub(crate) picture: usize,
    pub(crate) attachment: Attachment,
}

/// A message with attachments: where it is, and who looks at it.
pub(crate) struct Look<'a> {
    pub(crate) conversation_id: &'a str,
    pub(crate) seq: u64,
    pub(crate) shown: &'a [Shown],
    pub(crate) sender: &'a Client,
    /// Of another user.
    pub(crate) reader: &'a Client,
}

/// Downloads all attachments, each on a device of its reader and one of its sender. The examples say what
/// is wrong, for people who look for the reason.
pub(crate) async fn verify(
    looks: &[Look<'_>],
    gallery: &Gallery,
    progress: &ProgressBar,
) -> (Tally, Vec<String>) {
    let all = looks.iter().flat_map(|look| {
        let shown = look.shown.iter();
        shown.map(move |shown| (look, shown))
    });
    let checks = stream::iter(all).map(|(look, shown)| async move {
        let checked = check(look, shown, gallery).await;
        progress.inc(1);
        let place = (look.conversation_id, look.seq);
        checked.map_err(|error| format!("attachment of {place:?}: {error:#}"))
    });
    let (mut tally, mut examples) = (Tally::default(), Vec::new());
    let mut checks = std::pin::pin!(checks.buffer_unordered(AT_A_TIME));
    while let Some(checked) = checks.next().await {
        tally.attachments += 1;
        match checked {
            Ok(()) => tally.attachments_verified += 1,
            Err(example) => {
                tally.attachments_wrong += 1;
                if examples.len() < EXAMPLES_MAX {
                    examples.push(example);
                }
            }
        }
    }
    (tally, examples)
}

async fn check(look: &Look<'_>, shown: &Shown, gallery: &Gallery) -> anyhow::Result<()> {
    let attachment = &shown.attachment;
    let download = Download::at(look.conversation_id, look.seq, attachment);
    // The size and the hash that the message says are checked by the client.
    let read = async |client: &Client| {
        let blobs = client.blobs().patience(AWAY_MAX);
        blobs.read(download.clone()).await
    };
    let there = read(look.reader).await.context("its reader")?;
    let made = gallery.picture(shown.picture).context("a picture")?;
    made.check(&there, (attachment.width, attachment.height))?;
    let here = read(look.sender).await.context("its sender")?;
    anyhow::ensure!(here == there, "its sender has other bytes than its reader");
    Ok(())
}
