//! Who in this process works on which upload: one at a time.

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;

use super::{ObjectError, StageKey};

/// The uploads that somebody works on.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims(Arc<Mutex<HashSet<StageKey>>>);

/// An upload that nobody else in this process works on, until this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Claims,
    key: StageKey,
}

impl Claims {
    /// Takes an upload, or says that somebody has it.
    pub(super) fn claim(&self, key: StageKey) -> Result<Claim, ObjectError> {
        if !self.0.lock().insert(key) {
            return Err(ObjectError::Busy);
        }
        Ok(Claim {
            claims: self.clone(),
            key,
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.lock().remove(&self.key);
    }
}
