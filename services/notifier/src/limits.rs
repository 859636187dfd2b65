//! What is bounded, and why.

use std::time::Duration;

/// Bytes of a title: longer ones are cut. With the body and the rest, a push stays below the 4,096 bytes
/// that APNs, FCM and push services of browsers take.
pub const TITLE_BYTES_MAX: usize = 256;
/// Bytes of a body. A preview has at most 100 Unicode scalar values.
pub const BODY_BYTES_MAX: usize = 1_024;
/// How long a provider may take for one push. Theirs take some tenths of a second; slower ones have given
/// up on it themselves.
pub const PUSH_DEADLINE: Duration = Duration::from_secs(10);
/// How long a provider keeps a push for a device that is off: what is older is old news, and the device
/// asks for all of it anyway when it comes back.
pub const PUSH_LIFE: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// Bytes of the endpoint of a browser.
pub const ENDPOINT_BYTES_MAX: usize = 2_048;
/// Bytes of a registration token of FCM. Theirs have 150 to 350; they name no bound.
pub const REGISTRATION_TOKEN_BYTES_MAX: usize = 4_096;
/// Devices of a user that take pushes: as many as a user may have.
pub const TARGETS_PER_USER_MAX: usize = 50;
/// How long another service may take for an answer: theirs are a query or two.
pub const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Users whose pushes by one sender are counted, of each process: some 100 bytes each. Of more, the counts
/// begin anew, which lets some more pushes through.
pub const RATES_MAX: usize = 200_000;
/// Mails with a code that a user may have sent in a day, and that an address may get: more is a nuisance.
pub const CONFIRMATIONS_PER_DAY: u32 = 5;
/// How long such a code is good.
pub const CONFIRMATION_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Wrong codes that may be tried: with six digits, one in 100,000 guesses right.
pub const CONFIRMATION_TRIES_MAX: u32 = 10;
/// Soft bounces in a row that disable an address: a mailbox that is full for five digests is not read.
pub const SOFT_BOUNCES_MAX: u32 = 5;
