//! Where the events of changes are: told by whoever reads the fan-out in this process, waited for by
//! calls.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use runtime::ids::GroupId;
use tokio::sync::watch;

use crate::model::Sequenced;

/// Changes that calls wait for in this process; a call beyond them looks into the store only. Each takes
/// some 200 bytes, and lasts 5 s at most.
const WAITING_MAX: usize = 65_536;

/// What is waited for.
#[derive(Default)]
pub(crate) struct Waiting {
    changes: Mutex<HashMap<(GroupId, u64), watch::Sender<u64>>>,
}

impl Waiting {
    /// Waits for the event of a change from now on.
    pub(crate) fn wait_for(self: &Arc<Self>, group: GroupId, version: u64) -> Wait {
        let key = (group, version);
        let mut changes = self.changes.lock();
        let room = changes.len() < WAITING_MAX;
        let seq = match changes.get(&key) {
            Some(sender) => Some(sender.subscribe()),
            None if room => {
                let (sender, seq) = watch::channel(0);
                changes.insert(key, sender);
                Some(seq)
            }
            None => None,
        };
        drop(changes);
        Wait {
            waiting: self.clone(),
            key,
            seq,
        }
    }

    /// These changes have their places.
    pub(crate) fn tell(&self, changes: &[Sequenced]) {
        let waiting = self.changes.lock();
        for change in changes {
            if let Some(sender) = waiting.get(&(change.group, change.version)) {
                sender.send_replace(change.seq);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.changes.lock().len()
    }
}

/// One call's wait; the last one of a change takes it out of the table.
pub(crate) struct Wait {
    waiting: Arc<Waiting>,
    key: (GroupId, u64),
    seq: Option<watch::Receiver<u64>>,
}

impl Wait {
    /// The seq, as soon as it is known in this process; for ever if it is not.
    pub(crate) async fn seq(&mut self) -> u64 {
        if let Some(seq) = &mut self.seq
            && let Ok(seq) = seq.wait_for(|seq| *seq > 0).await
        {
            return *seq;
        }
        std::future::pending().await
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.seq = None;
        let mut changes = self.waiting.changes.lock();
        if changes
            .get(&self.key)
            .is_some_and(|sender| sender.receiver_count() == 0)
        {
            changes.remove(&self.key);
        }
    }
}
