//! The nouns of the service.

use runtime::ids::{BlobId, ConversationId, GroupId, UploadId, UserId};

/// What a blob is for, as a store keeps it: `messenger.blob.v1.Purpose`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// Of a message.
    Attachment = 1,
    /// Of a profile or a group.
    Picture = 2,
}

impl Purpose {
    /// From the number in a store or a request; `None` for 0 and for what a newer version wrote.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Attachment),
            2 => Some(Self::Picture),
            _ => None,
        }
    }
}

/// Which bytes of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Variant {
    /// All of it.
    Original,
    /// A picture of at most [`crate::limits::SMALL_SIDE_MAX`] pixels a side.
    Small,
    /// A picture of at most [`crate::limits::LARGE_SIDE_MAX`] pixels a side.
    Large,
}

impl Variant {
    /// Every variant.
    pub const ALL: [Self; 3] = [Self::Original, Self::Small, Self::Large];

    /// Its name in keys and URLs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Small => "small",
            Self::Large => "large",
        }
    }
}

/// A kind of content that may be uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaType {
    /// `image/jpeg`.
    Jpeg,
    /// `image/png`.
    Png,
    /// `image/gif`, perhaps moving.
    Gif,
    /// `image/webp`, perhaps moving.
    WebP,
    /// `video/mp4`.
    Mp4,
    /// `video/quicktime`.
    QuickTime,
    /// `video/webm`.
    WebM,
}

impl MediaType {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Jpeg,
        Self::Png,
        Self::Gif,
        Self::WebP,
        Self::Mp4,
        Self::QuickTime,
        Self::WebM,
    ];

    /// Its name, in messages, headers and stores.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Gif => "image/gif",
            Self::WebP => "image/webp",
            Self::Mp4 => "video/mp4",
            Self::QuickTime => "video/quicktime",
            Self::WebM => "video/webm",
        }
    }

    /// From the name in a store.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it is a picture, and not a video.
    pub const fn is_picture(self) -> bool {
        matches!(self, Self::Jpeg | Self::Png | Self::Gif | Self::WebP)
    }

    /// What a file of it is called after the dot.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::Gif => "gif",
            Self::WebP => "webp",
            Self::Mp4 => "mp4",
            Self::QuickTime => "mov",
            Self::WebM => "webm",
        }
    }
}

/// A smaller picture of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thumbnail {
    /// JPEG or PNG.
    pub media_type: MediaType,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Of the file.
    pub size_bytes: u64,
}

/// How something looks: a picture itself, or the poster of a video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// In pixels, upright.
    pub width: u32,
    /// In pixels, upright.
    pub height: u32,
    /// A BlurHash.
    pub placeholder: String,
    /// [`Variant::Small`].
    pub small: Thumbnail,
    /// [`Variant::Large`].
    pub large: Thumbnail,
}

/// A blob that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its name.
    pub id: BlobId,
    /// Who uploaded it.
    pub owner: UserId,
    /// What for.
    pub purpose: Purpose,
    /// What it is.
    pub media_type: MediaType,
    /// Of what is served.
    pub size_bytes: u64,
    /// Of what is served.
    pub sha256: [u8; 32],
    /// Of what was uploaded: by it, a second upload of the same is recognised.
    pub source_sha256: [u8; 32],
    /// `None` for a video without a poster.
    pub look: Option<Look>,
    /// The blob whose thumbnails are those of this video. This blob refers to it.
    pub poster: Option<BlobId>,
    /// When it was finished.
    pub created_unix_ms: i64,
    /// When the last of its receipts expires: until then it is kept without a reference.
    pub kept_until_unix_ms: i64,
}

/// An upload that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Named by the client.
    pub id: UploadId,
    /// Whose.
    pub owner: UserId,
    /// What for.
    pub purpose: Purpose,
    /// Of the whole.
    pub size_bytes: u64,
    /// Of the whole, as the client says.
    pub source_sha256: [u8; 32],
    /// The blob that it becomes, or has become; another one's if the owner had uploaded the same before.
    /// Chosen at the beginning, so that whatever a dead process has left under it can be removed.
    pub blob: BlobId,
    /// When it was begun.
    pub begun_unix_ms: i64,
    /// The blob is there.
    pub finished: bool,
}

impl Upload {
    /// Whether the client means the same.
    pub fn is_same(&self, other: &Self) -> bool {
        let of = |upload: &Self| (upload.purpose, upload.size_bytes, upload.source_sha256);
        of(self) == of(other)
    }
}

/// What may be left of an upload that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Whose upload it was.
    pub owner: UserId,
    /// Which.
    pub upload: UploadId,
    /// Under which name there may be bytes.
    pub blob: BlobId,
    /// They are nobody's: no blob has this name, and none will.
    pub bytes_can_go: bool,
    /// No upload of the owner has this name at the moment: what has arrived under it can go.
    pub stage_can_go: bool,
}

/// What something that refers to a blob says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// An event has these blobs, for good or until `removed`, which is final.
    Event {
        /// Of which conversation.
        conversation: ConversationId,
        /// Its place.
        seq: u64,
        /// Each once.
        blobs: Vec<BlobId>,
        /// It needs them no more.
        removed: bool,
    },
    /// A picture is this one from this version on; the largest version counts.
    Picture {
        /// Of what.
        of: PictureOf,
        /// Of the group or the profile.
        version: u64,
        /// `None` = no picture.
        blob: Option<BlobId>,
    },
}

/// What has a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PictureOf {
    /// A group.
    Group(GroupId),
    /// A profile.
    User(UserId),
}
