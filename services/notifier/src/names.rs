//! What people and groups are called, asked of `profile` and `groups` and remembered for a while.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use proto::{
    groups::v1::{BatchGetSnippetsRequest, directory_service_client::DirectoryServiceClient},
    profile::v1::{BatchGetProfilesRequest, profile_service_client::ProfileServiceClient},
};
use quick_cache::sync::Cache;
use runtime::{
    auth::ServiceChannel,
    ids::{GroupId, UserId},
    status::ApiError,
};

use crate::limits::CALL_DEADLINE;

/// Names remembered: about 100 bytes each.
const PEOPLE_MAX: usize = 100_000;
/// Names of groups remembered, each as one user sees it: about 120 bytes each.
const GROUPS_MAX: usize = 100_000;
/// How long a name may be shown after it was asked for.
const AGE_MAX: Duration = Duration::from_secs(60);
/// Ids in one question, as both services allow.
const PER_CALL_MAX: usize = 500;

/// Names of people and groups.
pub(crate) struct Names {
    profiles: ProfileServiceClient<ServiceChannel>,
    people: Cache<UserId, (Instant, String)>,
    directory: DirectoryServiceClient<ServiceChannel>,
    groups: Cache<(UserId, GroupId), (Instant, String)>,
}

impl Names {
    pub(crate) fn new(profile: ServiceChannel, groups: ServiceChannel) -> Self {
        Self {
            profiles: ProfileServiceClient::new(profile),
            people: Cache::new(PEOPLE_MAX),
            directory: DirectoryServiceClient::new(groups),
            groups: Cache::new(GROUPS_MAX),
        }
    }

    /// What these users call themselves; those who do not exist are left out.
    pub(crate) async fn people(
        &self,
        users: impl IntoIterator<Item = UserId>,
    ) -> Result<HashMap<UserId, String>, ApiError> {
        let (mut names, mut missing) = (HashMap::new(), Vec::new());
        for user in users {
            match self.people.get(&user) {
                Some((asked, name)) if asked.elapsed() <= AGE_MAX => drop(names.insert(user, name)),
                _ => missing.push(user),
            }
        }
        missing.sort_unstable();
        missing.dedup();
        for users in missing.chunks(PER_CALL_MAX) {
            let request = BatchGetProfilesRequest {
                user_ids: users.iter().map(ToString::to_string).collect(),
            };
            let mut profiles = self.profiles.clone();
            let answer = within(profiles.batch_get_profiles(request)).await?;
            let now = Instant::now();
            for profile in answer.profiles {
                if let Ok(user) = UserId::parse(&profile.user_id) {
                    self.people
                        .insert(user, (now, profile.display_name.clone()));
                    names.insert(user, profile.display_name);
                }
            }
        }
        Ok(names)
    }

    /// What these groups are called, each as a user of it sees it; those of which he never was a member
    /// are left out.
    pub(crate) async fn groups(
        &self,
        wanted: impl IntoIterator<Item = (UserId, GroupId)>,
    ) -> Result<HashMap<(UserId, GroupId), String>, ApiError> {
        let mut names = HashMap::new();
        let mut missing: HashMap<UserId, Vec<GroupId>> = HashMap::new();
        for key in wanted {
            match self.groups.get(&key) {
                Some((asked, name)) if asked.elapsed() <= AGE_MAX => drop(names.insert(key, name)),
                _ => missing.entry(key.0).or_default().push(key.1),
            }
        }
        for (user, mut groups) in missing {
            groups.sort_unstable();
            groups.dedup();
            for groups in groups.chunks(PER_CALL_MAX) {
                let request = BatchGetSnippetsRequest {
                    user_id: user.as_bytes().to_vec(),
                    group_ids: groups.iter().map(|id| id.as_bytes().to_vec()).collect(),
                };
                let mut directory = self.directory.clone();
                let answer = within(directory.batch_get_snippets(request)).await?;
                let now = Instant::now();
                for snippet in answer.snippets {
                    if let Ok(group) = GroupId::from_slice(&snippet.group_id) {
                        let key = (user, group);
                        self.groups.insert(key, (now, snippet.name.clone()));
                        names.insert(key, snippet.name);
                    }
                }
            }
        }
        Ok(names)
    }
}

/// The answer of a call, if it comes in time.
pub(crate) async fn within<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(CALL_DEADLINE, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(ApiError::unavailable(&status)),
        Err(elapsed) => Err(ApiError::unavailable(&elapsed)),
    }
}
