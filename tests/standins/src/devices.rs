//! What devices show of the pushes that they got.

use std::collections::{BTreeMap, HashMap, VecDeque};

use parking_lot::Mutex;

/// Pushes whose whole content is kept, the newest.
const KEPT_MAX: usize = 10_000;
/// Devices that are known at the same time: more than any test has, below a gigabyte.
const DEVICES_MAX: usize = 4_000_000;

/// A push as it arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notification {
    /// It shows something; otherwise it takes away what is shown under its tag up to `read_seq`.
    pub shows: bool,
    /// The bold line.
    pub title: String,
    /// The other one.
    pub body: String,
    /// What it replaces, or takes away.
    pub tag: String,
    /// The number at the app's icon; `None` = unchanged.
    pub badge: Option<u64>,
    /// Messages that it stands for.
    pub count: u64,
    /// Of the newest message.
    pub seq: u64,
    /// The user has read up to this.
    pub read_seq: u64,
    /// What a click opens.
    pub conversation_id: String,
    /// Headers, or settings for the platform, that came with it.
    pub headers: BTreeMap<String, String>,
}

/// A device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// What is on its screen, by tag. Empty if only counting.
    pub screen: BTreeMap<String, Notification>,
    /// The number at the app's icon.
    pub badge: u64,
    /// Pushes that came.
    pub pushes: u64,
    /// The app is not installed any more.
    pub gone: bool,
    /// Something of the provider's: the topic of an app, say.
    pub owner: String,
    /// Of the newest alert, by tag.
    last_seq: HashMap<u128, u64>,
}

/// What came in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Pushes that were taken.
    pub taken: u64,
    /// Those of them that show something.
    pub alerts: u64,
    /// Alerts of a message that the same device was told of by the one before.
    pub repeats: u64,
    /// Alerts of an older message than the one before, of the same conversation on the same device.
    pub disorders: u64,
}

/// All devices of a provider.
#[derive(Debug, Default)]
pub struct Devices(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    devices: HashMap<String, Device>,
    totals: Totals,
    kept: VecDeque<(String, Notification)>,
    counting: bool,
    takes_all: bool,
}

impl Devices {
    /// Installs the app: its token is known from now on.
    pub fn add(&self, token: &str, owner: &str) {
        let mut inner = self.0.lock();
        let device = inner.devices.entry(token.to_owned()).or_default();
        device.gone = false;
        owner.clone_into(&mut device.owner);
    }

    /// Takes the app away: pushes to its token are answered as gone.
    pub fn uninstall(&self, token: &str) {
        self.0
            .lock()
            .devices
            .entry(token.to_owned())
            .or_default()
            .gone = true;
    }

    /// Keeps no text and no screens from now on, only counts and orders; and knows every token. For loads.
    pub fn only_count(&self) {
        let mut inner = self.0.lock();
        (inner.counting, inner.takes_all) = (true, true);
    }

    /// Knows every token.
    pub fn take_all(&self) {
        self.0.lock().takes_all = true;
    }

    /// A device; `None` if it is not known.
    pub fn device(&self, token: &str) -> Option<Device> {
        self.0.lock().devices.get(token).cloned()
    }

    /// What came in all.
    pub fn totals(&self) -> Totals {
        self.0.lock().totals
    }

    /// The newest pushes with their tokens, the oldest first; at most 10,000.
    pub fn kept(&self) -> Vec<(String, Notification)> {
        self.0.lock().kept.iter().cloned().collect()
    }

    /// Is it known, and whose is it? `Err` = the app is gone.
    pub(crate) fn owner(&self, token: &str) -> Option<Result<String, ()>> {
        let inner = self.0.lock();
        match inner.devices.get(token) {
            Some(device) if device.gone => Some(Err(())),
            Some(device) => Some(Ok(device.owner.clone())),
            None => inner.takes_all.then(|| Ok(String::new())),
        }
    }

    /// A push arrives at a device.
    pub(crate) fn take(&self, token: &str, notification: Notification) {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        inner.totals.taken += 1;
        if inner.devices.len() >= DEVICES_MAX && !inner.devices.contains_key(token) {
            return;
        }
        if !inner.devices.contains_key(token) {
            inner.devices.insert(token.to_owned(), Device::default());
        }
        let Some(device) = inner.devices.get_mut(token) else {
            return;
        };
        device.pushes += 1;
        if let Some(badge) = notification.badge {
            device.badge = badge;
        }
        if notification.shows {
            inner.totals.alerts += 1;
            let last = device.last_seq.entry(hash(&notification.tag)).or_insert(0);
            match notification.seq.cmp(last) {
                std::cmp::Ordering::Less => inner.totals.disorders += 1,
                std::cmp::Ordering::Equal if *last > 0 => inner.totals.repeats += 1,
                _ => {}
            }
            *last = (*last).max(notification.seq);
        }
        if inner.counting {
            return;
        }
        if notification.shows {
            device
                .screen
                .insert(notification.tag.clone(), notification.clone());
        } else if device
            .screen
            .get(&notification.tag)
            .is_some_and(|shown| shown.seq <= notification.read_seq)
        {
            device.screen.remove(&notification.tag);
        }
        if inner.kept.len() == KEPT_MAX {
            inner.kept.pop_front();
        }
        inner.kept.push_back((token.to_owned(), notification));
    }
}

/// Tags are 32 hexadecimal digits: kept as a number they take a quarter of the memory.
fn hash(tag: &str) -> u128 {
    u128::from_str_radix(tag, 16).unwrap_or(0)
}
