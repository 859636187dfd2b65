//! What is made of uploads: messages, and pictures of profiles and groups.

use super::{Progress, Source, Upload, Uploaded};
use crate::{
    accounts::ProfileUpdate,
    client::Client,
    error::Result,
    groups::{Changed, GroupUpdate, Groups},
    model::{Draft, ErrorReason, Profile, Receipt},
    session::Session,
};

/// Times that receipts are renewed for one message: each is good for a day, and a message that waited
/// for days has a device behind it that is hardly ever connected.
const RENEWALS_MAX: u32 = 8;

impl Session {
    /// Uploads 1 to 10 pictures or videos, and sends them as one message, behind those that the draft has
    /// already. Returns when it is in the conversation. The progress is that of all of them together.
    ///
    /// If the app ends before it is queued, there is no message; afterwards it is as of
    /// [`Session::send`]. When its receipts have expired before it could be sent, the same bytes are
    /// uploaded again, and the message is [sent again](Session::send_again) under its old name.
    pub async fn send_attachments(
        &self,
        conversation_id: &str,
        draft: impl Into<Draft>,
        sources: Vec<Source>,
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<Receipt> {
        let draft = draft.into();
        let drafted = attach(self.client(), &draft, &sources, &mut progress).await?;
        let mut outgoing = self.send(conversation_id, drafted).await?;
        let mut renewals = 0;
        loop {
            match outgoing.sent().await {
                Err(error)
                    if error.reason() == ErrorReason::ReceiptExpired && renewals < RENEWALS_MAX =>
                {
                    renewals += 1;
                    // The server has the bytes, and a draft's own attachments are not ours to renew.
                    let drafted = attach(self.client(), &draft, &sources, &mut |_| ()).await?;
                    outgoing = self.send_again(&outgoing, drafted).await?;
                }
                answer => return answer,
            }
        }
    }
}

async fn attach(
    client: &Client,
    draft: &Draft,
    sources: &[Source],
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Draft> {
    let mut draft = draft.clone();
    let mut sums = vec![Progress::default(); sources.len()];
    // All sizes are known before the first byte goes, and what cannot be read is told at once.
    for (sum, source) in sums.iter_mut().zip(sources) {
        sum.total_bytes = source.size_bytes().await?;
    }
    for (place, source) in sources.iter().enumerate() {
        let upload = Upload::attachment(source.clone());
        let told = |one: Progress| {
            if let Some(sum) = sums.get_mut(place) {
                *sum = one;
            }
            progress(Progress {
                done_bytes: sums.iter().map(|sum| sum.done_bytes).sum(),
                total_bytes: sums.iter().map(|sum| sum.total_bytes).sum(),
            });
        };
        draft = draft.attach(&client.blobs().upload(upload, told).await?);
    }
    Ok(draft)
}

impl Client {
    /// Uploads a picture, and makes it the one of the own profile. Gives the profile back.
    pub async fn set_profile_picture(
        &self,
        picture: impl Into<Source>,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<Profile> {
        let uploaded = upload_picture(self, picture.into(), progress).await?;
        self.update_profile(ProfileUpdate {
            picture_receipt: Some(uploaded.receipt),
            ..ProfileUpdate::default()
        })
        .await
    }

    /// Removes the picture of the own profile.
    pub async fn remove_profile_picture(&self) -> Result<Profile> {
        self.update_profile(ProfileUpdate {
            picture_receipt: Some(String::new()),
            ..ProfileUpdate::default()
        })
        .await
    }
}

impl Groups {
    /// Uploads a picture, and makes it the one of a group.
    pub async fn set_picture(
        &self,
        group_id: &str,
        picture: impl Into<Source>,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<Changed> {
        let uploaded = upload_picture(self.client(), picture.into(), progress).await?;
        let update = GroupUpdate {
            picture_receipt: Some(uploaded.receipt),
            ..GroupUpdate::default()
        };
        self.update(group_id, update).await
    }
}

async fn upload_picture(
    client: &Client,
    picture: Source,
    progress: impl FnMut(Progress) + Send,
) -> Result<Uploaded> {
    client
        .blobs()
        .upload(Upload::picture(picture), progress)
        .await
}
