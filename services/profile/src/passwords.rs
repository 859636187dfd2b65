//! Hashing passwords: expensive on purpose, and therefore bounded.

use std::{sync::Arc, time::Duration};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use tokio::sync::Semaphore;

use crate::{config::Config, error::Error};

/// How long a password may wait to be hashed, below the patience of a person.
const HASH_WAIT_MAX: Duration = Duration::from_secs(10);

/// Hashes and verifies a few passwords at a time, apart from the threads that serve calls.
pub struct Passwords {
    argon2: Argon2<'static>,
    /// For those that run and those that wait.
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
    /// Of no password: verified for users that do not exist, so that they cost the same.
    nobodys_hash: String,
}

impl Passwords {
    /// Fails if the parameters are outside of what Argon2 allows.
    pub async fn new(config: &Config) -> Result<Self, Error> {
        let costs = config.argon2;
        let params = Params::new(costs.memory_kib, costs.passes, costs.lanes, None)
            .map_err(|error| Error::Hashing(error.to_string()))?;
        let admitted = config.hashes_running_max + config.hashes_waiting_max;
        let mut passwords = Self {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            admitted: Arc::new(Semaphore::new(admitted)),
            running: Arc::new(Semaphore::new(config.hashes_running_max)),
            nobodys_hash: String::new(),
        };
        let random: [u8; 32] = rand::random();
        passwords.nobodys_hash = passwords.hash(random.to_vec()).await?;
        Ok(passwords)
    }

    /// The PHC string of a password, with a new salt.
    pub async fn hash(&self, password: impl Into<Vec<u8>>) -> Result<String, Error> {
        let (argon2, password) = (self.argon2.clone(), password.into());
        self.run(move || {
            let hash: PasswordHash = argon2
                .hash_password(&password)
                .map_err(|error| Error::Hashing(error.to_string()))?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether it is the password of `hash`. Without a hash the answer is no, after the same work.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, Error> {
        let argon2 = self.argon2.clone();
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobodys_hash.clone());
        self.run(move || {
            let hash =
                PasswordHash::new(&hash).map_err(|error| Error::Hashing(error.to_string()))?;
            let right = argon2.verify_password(password.as_bytes(), &hash).is_ok();
            Ok(right && known)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let overloaded = |_| Error::Overloaded;
        let admitted = self.admitted.clone().try_acquire_owned();
        let admitted = admitted.map_err(overloaded)?;
        let running = self.running.clone().acquire_owned();
        let running = tokio::time::timeout(HASH_WAIT_MAX, running).await;
        let running = running
            .map_err(|_| Error::Overloaded)?
            .map_err(|_| Error::Overloaded)?;
        let done = tokio::task::spawn_blocking(move || {
            // Held by the work and not by the call, which may go away before it is done.
            let _held = (admitted, running);
            work()
        });
        done.await
            .map_err(|error| Error::Hashing(error.to_string()))?
    }
}

#[cfg(test)]
mod tests;
