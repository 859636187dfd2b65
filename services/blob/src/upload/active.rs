//! One connection at a time sends to an upload.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use runtime::shutdown::CancellationToken;

use crate::objects::StageKey;

/// The connections that send to uploads, in this process. A newer one replaces an older one: a client
/// that lost its connection must not wait until the server notices.
#[derive(Default)]
pub(crate) struct Active {
    uploads: Mutex<HashMap<StageKey, (u64, CancellationToken)>>,
}

/// A connection that sends, as long as it lives.
pub(super) struct ActiveGuard {
    active: Arc<Active>,
    key: StageKey,
    number: u64,
}

impl Active {
    /// The connection that sends from now on; it is told when another one does.
    pub(super) fn replace(self: &Arc<Self>, key: StageKey) -> (ActiveGuard, CancellationToken) {
        let token = CancellationToken::new();
        let mut uploads = self.uploads.lock();
        let before = uploads.remove(&key);
        let number = before.as_ref().map_or(0, |(number, _)| number + 1);
        if let Some((_, before)) = before {
            before.cancel();
        }
        uploads.insert(key, (number, token.clone()));
        let guard = ActiveGuard {
            active: self.clone(),
            key,
            number,
        };
        (guard, token)
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        let mut uploads = self.active.uploads.lock();
        if uploads
            .get(&self.key)
            .is_some_and(|(n, _)| *n == self.number)
        {
            uploads.remove(&self.key);
        }
    }
}
