//! Who exists, and what a line about them says: asked of `profile` and remembered for a while.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use proto::profile::v1::{BatchGetProfilesRequest, profile_service_client::ProfileServiceClient};
use quick_cache::sync::Cache;
use runtime::{auth::ServiceChannel, ids::UserId};

use crate::error::Error;

/// Profiles remembered: about 250 bytes each.
const PROFILES_MAX: usize = 50_000;
/// How long a name may be shown after it was asked for. That a user exists never changes.
const NAME_AGE_MAX: Duration = Duration::from_secs(30);
/// Users in one question, as `profile` allows.
const USERS_PER_CALL_MAX: usize = 500;
/// How long `profile` may take: callers wait.
const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// What is shown of a user.
#[derive(Debug, Clone, Default)]
pub(crate) struct Name {
    pub(crate) username: String,
    pub(crate) display_name: String,
}

/// Profiles, as far as groups needs them.
pub(crate) struct Directory {
    profiles: ProfileServiceClient<ServiceChannel>,
    known: Cache<UserId, (Instant, Name)>,
}

impl Directory {
    pub(crate) fn new(profile: ServiceChannel) -> Self {
        Self {
            profiles: ProfileServiceClient::new(profile),
            known: Cache::new(PROFILES_MAX),
        }
    }

    /// Whether all of the users exist.
    pub(crate) async fn all_exist(&self, users: &[UserId]) -> Result<bool, Error> {
        let unknown = users.iter().filter(|user| !self.known.contains_key(*user));
        let unknown: Vec<UserId> = unknown.copied().collect();
        let found = self.ask(&unknown).await?;
        Ok(unknown.iter().all(|user| found.contains_key(user)))
    }

    /// What lines about these users say, as far as that is known now: a list without names is better
    /// than none.
    pub(crate) async fn names(&self, users: &[UserId]) -> HashMap<UserId, Name> {
        let mut names = HashMap::with_capacity(users.len());
        let mut missing = Vec::new();
        for user in users {
            match self.known.get(user) {
                Some((asked, name)) if asked.elapsed() <= NAME_AGE_MAX => {
                    names.insert(*user, name);
                }
                _ => missing.push(*user),
            }
        }
        match self.ask(&missing).await {
            Ok(found) => names.extend(found),
            Err(error) => tracing::debug!(%error, "names are left out"),
        }
        names
    }

    async fn ask(&self, users: &[UserId]) -> Result<HashMap<UserId, Name>, Error> {
        let mut names = HashMap::with_capacity(users.len());
        for users in users.chunks(USERS_PER_CALL_MAX) {
            let request = BatchGetProfilesRequest {
                user_ids: users.iter().map(ToString::to_string).collect(),
            };
            let mut profiles = self.profiles.clone();
            let answer = profiles.batch_get_profiles(request);
            let answer = match tokio::time::timeout(CALL_DEADLINE, answer).await {
                Ok(Ok(answer)) => answer.into_inner(),
                Ok(Err(status)) => return Err(Error::Profile(status.to_string())),
                Err(elapsed) => return Err(Error::Profile(elapsed.to_string())),
            };
            let now = Instant::now();
            for profile in answer.profiles {
                let Ok(user) = UserId::parse(&profile.user_id) else {
                    continue;
                };
                let name = Name {
                    username: profile.username,
                    display_name: profile.display_name,
                };
                self.known.insert(user, (now, name.clone()));
                names.insert(user, name);
            }
        }
        Ok(names)
    }
}
