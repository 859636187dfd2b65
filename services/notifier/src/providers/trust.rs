//! Whether to believe a provider that says of a device what it would say of every device if our settings
//! were wrong: the wrong environment of Apple, the wrong key of Web Push. Believing it would forget the
//! targets of all users within minutes.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Such answers in a row that are about our settings, not about devices: even where one device in two is
/// gone, so many in a row do not come in the lifetime of a star.
const IN_A_ROW_MAX: u32 = 100;

/// What such an answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The device: others were taken with the same settings.
    Device,
    /// Not known: nothing was taken with these settings since the process began.
    Unknown,
    /// The settings.
    Settings,
}

/// What was seen with some settings.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    proven: AtomicBool,
    in_a_row: AtomicU32,
}

impl Trust {
    /// The provider knew a device: the settings are right.
    pub(crate) fn proven(&self) {
        self.proven.store(true, Ordering::Relaxed);
        self.in_a_row.store(0, Ordering::Relaxed);
    }

    /// The provider said it of one more device.
    pub(crate) fn blame(&self) -> Blame {
        let before = self
            .in_a_row
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                Some(n.saturating_add(1))
            })
            .unwrap_or(u32::MAX);
        match self.proven.load(Ordering::Relaxed) {
            _ if before >= IN_A_ROW_MAX => Blame::Settings,
            true => Blame::Device,
            false => Blame::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_every_device_is_about_the_settings() {
        let trust = Trust::default();
        assert_eq!(trust.blame(), Blame::Unknown);
        trust.proven();
        let blamed: Vec<Blame> = (0..=IN_A_ROW_MAX).map(|_| trust.blame()).collect();
        assert!(blamed[..100].iter().all(|blame| *blame == Blame::Device));
        assert_eq!(blamed[100], Blame::Settings);
        trust.proven();
        assert_eq!(trust.blame(), Blame::Device);
    }
}
