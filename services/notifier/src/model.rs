//! The nouns of the notifier.

use bytes::Bytes;
use runtime::ids::{ConversationId, DeviceId, UserId};

/// Who delivers a push, as stores keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ProviderKind {
    /// Apple Push Notification service.
    Apns = 1,
    /// Firebase Cloud Messaging.
    Fcm = 2,
    /// The push services of browsers.
    WebPush = 3,
}

impl ProviderKind {
    /// Every one of them.
    pub const ALL: [Self; 3] = [Self::Apns, Self::Fcm, Self::WebPush];

    /// From the number in a store; `None` if a newer version wrote it.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Apns),
            2 => Some(Self::Fcm),
            3 => Some(Self::WebPush),
            _ => None,
        }
    }

    /// Its name in settings, metrics and the names of readers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Apns => "apns",
            Self::Fcm => "fcm",
            Self::WebPush => "web_push",
        }
    }
}

/// Where a device takes pushes. Whoever knows it can push there, or (Web Push) send requests there, so it
/// is not shown in logs: its `Debug` names the provider only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// Apple.
    Apns {
        /// As the system gave it to the app, in lower-case hexadecimal.
        device_token: String,
        /// The app's bundle id.
        topic: String,
        /// The app was built for development.
        sandbox: bool,
    },
    /// Google.
    Fcm {
        /// As the library gave it to the app.
        registration_token: String,
    },
    /// A browser.
    WebPush {
        /// An https URL.
        endpoint: String,
        /// The browser's key: an uncompressed point of P-256.
        p256dh: Box<[u8; 65]>,
        /// The secret that both know.
        auth: [u8; 16],
    },
}

impl Target {
    /// Who delivers there.
    pub const fn kind(&self) -> ProviderKind {
        match self {
            Self::Apns { .. } => ProviderKind::Apns,
            Self::Fcm { .. } => ProviderKind::Fcm,
            Self::WebPush { .. } => ProviderKind::WebPush,
        }
    }

    /// What the provider knows the device by: at most one device of all has it.
    pub fn token(&self) -> &str {
        match self {
            Self::Apns { device_token, .. } => device_token,
            Self::Fcm { registration_token } => registration_token,
            Self::WebPush { endpoint, .. } => endpoint,
        }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({})", self.kind().name())
    }
}

/// A device and where it takes pushes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceTarget {
    /// Whose.
    pub user: UserId,
    /// Which.
    pub device: DeviceId,
    /// Where.
    pub target: Target,
}

/// What a push says of a message, as stores keep it: `messenger.notifier.v1.PreviewDetail`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PreviewDetail {
    /// Who wrote, and what.
    NameAndText = 1,
    /// Who wrote.
    NameOnly = 2,
    /// That there is something.
    Nothing = 3,
}

impl PreviewDetail {
    /// From the number in a store; `None` if a newer version wrote it.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::NameAndText),
            2 => Some(Self::NameOnly),
            3 => Some(Self::Nothing),
            _ => None,
        }
    }
}

/// How often a digest comes, as stores keep it: `messenger.notifier.v1.DigestPeriod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum DigestPeriod {
    /// Never.
    Off = 1,
    /// At each full hour.
    Hourly = 2,
    /// At the user's hour.
    Daily = 3,
    /// On Mondays at the user's hour.
    Weekly = 4,
}

impl DigestPeriod {
    /// From the number in a store; `None` if a newer version wrote it.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Off),
            2 => Some(Self::Hourly),
            3 => Some(Self::Daily),
            4 => Some(Self::Weekly),
            _ => None,
        }
    }
}

/// When a user is not to be disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietHours {
    /// They mean something.
    pub on: bool,
    /// Minutes after midnight, by the user's clock.
    pub from_minute: u16,
    /// The same; not above `from_minute` = it is on the next day.
    pub to_minute: u16,
}

/// What a user wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preferences {
    /// Pushes at all.
    pub push: bool,
    /// What they say.
    pub preview: PreviewDetail,
    /// Mentions are pushed from muted conversations too.
    pub mentions_pierce_mute: bool,
    /// When nothing is pushed.
    pub quiet_hours: QuietHours,
    /// An IANA name.
    pub time_zone: String,
    /// How often a digest comes.
    pub digest: DigestPeriod,
    /// When, by the user's clock: 0 to 23.
    pub digest_hour: u8,
    /// Grows by one with each change; 0 = never changed.
    pub version: u64,
}

impl Default for Preferences {
    fn default() -> Self {
        Self {
            push: true,
            preview: PreviewDetail::NameAndText,
            mentions_pierce_mute: true,
            quiet_hours: QuietHours {
                on: false,
                from_minute: 22 * 60,
                to_minute: 7 * 60,
            },
            time_zone: "UTC".to_owned(),
            digest: DigestPeriod::Daily,
            digest_hour: 8,
            version: 0,
        }
    }
}

/// A conversation of a user: what one notification on a screen is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Who is told.
    pub user: UserId,
    /// Of which conversation.
    pub conversation: ConversationId,
}

/// A conversation on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceSubject {
    /// Of the user of the device.
    pub subject: Subject,
    /// Which.
    pub device: DeviceId,
}

/// How far a device was told of a conversation. Each part only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    /// No message up to this seq is pushed again.
    pub seq: u64,
    /// What was read up to this seq was taken from the screen, and the badge told.
    pub read_seq: u64,
}

/// A record of `offline` that is to come again later: its user sleeps, or his device's provider wants a
/// pause for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// One record for each; of two, the one with the larger seq stays, and the earlier time.
    pub subject: Subject,
    /// Of the newest message in it.
    pub seq: u64,
    /// When it comes again, in Unix milliseconds.
    pub due_unix_ms: i64,
    /// The record.
    pub payload: Bytes,
}

/// Why nothing is sent to a confirmed address, as stores keep it: `messenger.notifier.v1.EmailDisabled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EmailDisabled {
    /// There is no such address.
    Bounced = 1,
    /// Its owner called our mail junk.
    Complained = 2,
}

impl EmailDisabled {
    /// From the number in a store; `None` if a newer version wrote it.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Bounced),
            2 => Some(Self::Complained),
            _ => None,
        }
    }
}

/// Where a user's mail goes. Its `Debug` does not show the address.
#[derive(Clone, PartialEq, Eq)]
pub struct Email {
    /// As given; compared with its domain in lower case.
    pub address: String,
    /// Its owner has shown the code of a mail that was sent there.
    pub confirmed: bool,
    /// Why nothing is sent there.
    pub disabled: Option<EmailDisabled>,
}

impl std::fmt::Debug for Email {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Email")
            .field("confirmed", &self.confirmed)
            .field("disabled", &self.disabled)
            .finish_non_exhaustive()
    }
}

/// A digest that is due, claimed by this process until its lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueDigest {
    /// Whose.
    pub user: UserId,
    /// Where it goes: confirmed and not disabled.
    pub email: Email,
    /// With them, when it comes.
    pub preferences: Preferences,
    /// When it was due, in Unix milliseconds: names the period, so that one of a period that was sent and
    /// not recorded has the same Message-ID when it is sent again.
    pub due_unix_ms: i64,
    /// Of the newest message that a digest has told of, to this address; 0 = none has.
    pub told_unix_ms: i64,
}

/// What became of a digest that was due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedDigest {
    /// As it was claimed.
    pub due: DueDigest,
    /// When the next one is due; `None` = none is, by the preferences with which it was claimed.
    pub next_unix_ms: Option<i64>,
    /// What became of its mail.
    pub mail: DigestMail,
}

/// What became of the mail of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestMail {
    /// There was none: nothing new was unread, or we could not say it.
    None,
    /// It was taken.
    Taken {
        /// Of the newest message in it.
        told_unix_ms: i64,
    },
    /// There is no such address: it is disabled.
    HardBounce,
    /// Not now, for as long as it was tried: counted.
    SoftBounce,
}
