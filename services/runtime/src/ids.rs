//! The typed ids of the whole suite: one list, so that no id is taken for another.
//!
//! In text (on the wire) they are as documented in `messaging.proto`; in bytes (log, stores) they are
//! 16 bytes, or for a conversation its kind followed by what the kind needs.

use std::fmt;

use uuid::Uuid;

/// The text or the bytes are not an id of the wanted kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {kind}")]
pub struct InvalidId {
    /// The kind of id that was wanted, such as `user_id`.
    pub kind: &'static str,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// A new id: a UUID of version 7, so that ids made later are larger.
            pub fn generate() -> Self {
                Self(Uuid::now_v7().into_bytes())
            }

            /// From the 16 bytes of the log and the stores.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// From a slice, which must have 16 bytes and not be all zeros.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidId> {
                match <[u8; 16]>::try_from(bytes) {
                    Ok(bytes) if bytes != [0; 16] => Ok(Self(bytes)),
                    _ => Err(InvalidId { kind: $kind }),
                }
            }

            /// From a hyphenated UUID in text, which must not be all zeros.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                if text.len() != 36 {
                    return Err(InvalidId { kind: $kind });
                }
                let uuid = Uuid::try_parse(text).map_err(|_| InvalidId { kind: $kind })?;
                Self::from_slice(uuid.as_bytes())
            }

            /// The 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&Uuid::from_bytes(self.0), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

uuid_id!(
    /// A person, or a bot.
    UserId,
    "user_id"
);
uuid_id!(
    /// A place where a user is logged in.
    DeviceId,
    "device_id"
);
uuid_id!(
    /// A message, named by its sender: unique among that sender's messages in a conversation.
    MessageId,
    "message_id"
);

uuid_id!(
    /// A group.
    GroupId,
    "group_id"
);

uuid_id!(
    /// A picture or a video that was uploaded.
    BlobId,
    "blob_id"
);
uuid_id!(
    /// An upload, named by its client: unique among the uploads of a user.
    UploadId,
    "upload_id"
);

impl MessageId {
    /// The name of the event of a group's change; no client may use one of these.
    pub const fn of_change(version: u64) -> Self {
        let mut bytes = [0; 16];
        let version = version.to_be_bytes();
        let mut at = 0;
        while at < 8 {
            bytes[8 + at] = version[at];
            at += 1;
        }
        Self(bytes)
    }

    /// Whether it is the name of a change of a group.
    pub fn is_of_change(&self) -> bool {
        self.0[..8] == [0; 8]
    }
}

/// The first byte of a direct conversation's id.
const KIND_DIRECT: u8 = 1;
/// The first byte of the id of a group's conversation.
const KIND_GROUP: u8 = 2;
/// Bytes of a direct conversation's id: the kind and two user ids.
const DIRECT_LEN: usize = 33;
/// Bytes of the id of a group's conversation: the kind and the group's id.
const GROUP_LEN: usize = 17;
/// Bytes of a direct conversation's id in text: "d:", two UUIDs and a colon between them.
const DIRECT_TEXT_LEN: usize = 75;
/// Bytes of a UUID in text.
const UUID_TEXT_LEN: usize = uuid::fmt::Hyphenated::LENGTH;

/// A conversation. Direct: the id contains both user ids, sorted, so that nobody else can be
/// authorised, and opening it twice or from both sides gives the same. Of a group: its id is the
/// group's, and the log knows the members.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConversationId([u8; DIRECT_LEN]);

impl ConversationId {
    /// The conversation of two different users, whichever of them is named first.
    pub fn direct(one: UserId, other: UserId) -> Result<Self, InvalidId> {
        let (low, high) = if one < other {
            (one, other)
        } else {
            (other, one)
        };
        if low == high {
            return Err(InvalidId {
                kind: "conversation_id",
            });
        }
        let mut bytes = [KIND_DIRECT; DIRECT_LEN];
        bytes[1..17].copy_from_slice(low.as_bytes());
        bytes[17..].copy_from_slice(high.as_bytes());
        Ok(Self(bytes))
    }

    /// The conversation of a group.
    pub fn group(group: GroupId) -> Self {
        let mut bytes = [0; DIRECT_LEN];
        bytes[0] = KIND_GROUP;
        bytes[1..GROUP_LEN].copy_from_slice(group.as_bytes());
        Self(bytes)
    }

    /// From the bytes of the log and the stores.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidId> {
        let invalid = InvalidId {
            kind: "conversation_id",
        };
        match (bytes.first(), bytes.len()) {
            (Some(&KIND_DIRECT), DIRECT_LEN) => {
                let low = UserId::from_slice(&bytes[1..17]).map_err(|_| invalid)?;
                let high = UserId::from_slice(&bytes[17..]).map_err(|_| invalid)?;
                if low < high {
                    Self::direct(low, high)
                } else {
                    Err(invalid)
                }
            }
            (Some(&KIND_GROUP), GROUP_LEN) => GroupId::from_slice(&bytes[1..])
                .map(Self::group)
                .map_err(|_| invalid),
            _ => Err(invalid),
        }
    }

    /// From its text form; the user ids must be in order, since an id has one form only.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId {
            kind: "conversation_id",
        };
        if let Some(group) = text.strip_prefix("g:") {
            return GroupId::parse(group).map(Self::group).map_err(|_| invalid);
        }
        // Checked before slicing, which would panic inside of a multi-byte character.
        if text.len() != DIRECT_TEXT_LEN || !text.is_ascii() || &text[..2] != "d:" {
            return Err(invalid);
        }
        if &text[38..39] != ":" {
            return Err(invalid);
        }
        let low = UserId::parse(&text[2..38]).map_err(|_| invalid)?;
        let high = UserId::parse(&text[39..]).map_err(|_| invalid)?;
        if low < high {
            Self::direct(low, high)
        } else {
            Err(invalid)
        }
    }

    /// The bytes: 33 of a direct conversation, 17 of a group's.
    pub const fn as_bytes(&self) -> &[u8] {
        match self.0[0] {
            KIND_GROUP => self.0.split_at(GROUP_LEN).0,
            _ => &self.0,
        }
    }

    /// Of which group it is; `None` for a direct conversation.
    pub fn group_id(&self) -> Option<GroupId> {
        if self.0[0] != KIND_GROUP {
            return None;
        }
        let mut group = [0; 16];
        group.copy_from_slice(&self.0[1..GROUP_LEN]);
        Some(GroupId::from_bytes(group))
    }

    /// The two members of a direct conversation, the smaller id first; `None` for a group's.
    pub fn direct_members(&self) -> Option<[UserId; 2]> {
        if self.0[0] != KIND_DIRECT {
            return None;
        }
        let mut low = [0; 16];
        let mut high = [0; 16];
        low.copy_from_slice(&self.0[1..17]);
        high.copy_from_slice(&self.0[17..]);
        Some([UserId::from_bytes(low), UserId::from_bytes(high)])
    }

    /// The other member of a direct conversation, if `user` is one.
    pub fn peer_of(&self, user: UserId) -> Option<UserId> {
        let [low, high] = self.direct_members()?;
        if user == low {
            Some(high)
        } else if user == high {
            Some(low)
        } else {
            None
        }
    }
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In one piece: then a string of it is one allocation. There are some for each message.
        let mut text = [b':'; DIRECT_TEXT_LEN];
        let mut put = |at: usize, id: [u8; 16]| {
            let place = &mut text[at..at + UUID_TEXT_LEN];
            Uuid::from_bytes(id).hyphenated().encode_lower(place);
        };
        let len = match (self.direct_members(), self.group_id()) {
            (Some([low, high]), _) => {
                put(2, low.0);
                put(3 + UUID_TEXT_LEN, high.0);
                text[0] = b'd';
                DIRECT_TEXT_LEN
            }
            (None, Some(group)) => {
                put(2, group.0);
                text[0] = b'g';
                2 + UUID_TEXT_LEN
            }
            (None, None) => return Err(fmt::Error),
        };
        f.write_str(str::from_utf8(&text[..len]).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
