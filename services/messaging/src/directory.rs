//! Who exists, and what a line about them says: profiles and groups as messaging needs them, asked of
//! `profile` and `groups` and remembered for a while.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use proto::{
    groups::v1::{BatchGetSnippetsRequest, directory_service_client::DirectoryServiceClient},
    messaging::v1::{GroupSnippet, ProfileSnippet},
    profile::v1::{BatchGetProfilesRequest, profile_service_client::ProfileServiceClient},
};
use quick_cache::sync::Cache;
use runtime::{
    auth::ServiceChannel,
    ids::{GroupId, UserId},
    status::ApiError,
};

use crate::limits::CALL_DEADLINE;

/// Profiles remembered: about 300 bytes each.
const PROFILES_MAX: usize = 50_000;
/// How long a snippet may be shown after it was asked for. That a user exists never changes.
const SNIPPET_AGE_MAX: Duration = Duration::from_secs(30);
/// Users in one question, as `profile` allows; and groups, as `groups` does.
const USERS_PER_CALL_MAX: usize = 500;
/// Groups remembered, each as one user sees it: about 300 bytes each.
const GROUPS_MAX: usize = 50_000;

/// Profiles and groups, as far as messaging needs them.
pub(crate) struct Directory {
    groups: DirectoryServiceClient<ServiceChannel>,
    known_groups: Cache<(UserId, GroupId), (Instant, GroupSnippet)>,
    profiles: ProfileServiceClient<ServiceChannel>,
    known: Cache<UserId, (Instant, ProfileSnippet)>,
}

impl Directory {
    pub(crate) fn new(profile: ServiceChannel, groups: ServiceChannel) -> Self {
        Self {
            groups: DirectoryServiceClient::new(groups),
            known_groups: Cache::new(GROUPS_MAX),
            profiles: ProfileServiceClient::new(profile),
            known: Cache::new(PROFILES_MAX),
        }
    }

    /// Whether the user is remembered to exist, without asking.
    pub(crate) fn is_known(&self, user: UserId) -> bool {
        self.known.contains_key(&user)
    }

    /// Whether the user exists.
    pub(crate) async fn exists(&self, user: UserId) -> Result<bool, ApiError> {
        if self.is_known(user) {
            return Ok(true);
        }
        Ok(self.ask(&[user]).await?.contains_key(&user))
    }

    /// What lines about these users say; users that do not exist are left out.
    pub(crate) async fn snippets(
        &self,
        users: &[UserId],
    ) -> Result<HashMap<UserId, ProfileSnippet>, ApiError> {
        let mut snippets = HashMap::with_capacity(users.len());
        let mut missing = Vec::new();
        for user in users {
            match self.known.get(user) {
                Some((asked, snippet)) if asked.elapsed() <= SNIPPET_AGE_MAX => {
                    snippets.insert(*user, snippet);
                }
                _ => missing.push(*user),
            }
        }
        for users in missing.chunks(USERS_PER_CALL_MAX) {
            snippets.extend(self.ask(users).await?);
        }
        Ok(snippets)
    }

    /// What lines about these groups say to this user. A list without the names of groups is better than
    /// none: those that cannot be had now are left out.
    pub(crate) async fn group_snippets(
        &self,
        user: UserId,
        groups: &[GroupId],
    ) -> HashMap<GroupId, GroupSnippet> {
        let mut snippets = HashMap::with_capacity(groups.len());
        let mut missing = Vec::new();
        for group in groups {
            match self.known_groups.get(&(user, *group)) {
                Some((asked, snippet)) if asked.elapsed() <= SNIPPET_AGE_MAX => {
                    snippets.insert(*group, snippet);
                }
                _ => missing.push(*group),
            }
        }
        for groups in missing.chunks(USERS_PER_CALL_MAX) {
            match self.ask_groups(user, groups).await {
                Ok(found) => snippets.extend(found),
                Err(error) => {
                    tracing::debug!(%error, "groups could not be asked for names");
                    break;
                }
            }
        }
        snippets
    }

    async fn ask_groups(
        &self,
        user: UserId,
        groups: &[GroupId],
    ) -> Result<HashMap<GroupId, GroupSnippet>, ApiError> {
        let request = BatchGetSnippetsRequest {
            user_id: user.as_bytes().to_vec(),
            group_ids: groups.iter().map(|id| id.as_bytes().to_vec()).collect(),
        };
        let mut client = self.groups.clone();
        let answer = tokio::time::timeout(CALL_DEADLINE, client.batch_get_snippets(request)).await;
        let found = match answer {
            Ok(Ok(answer)) => answer.into_inner().snippets,
            Ok(Err(status)) => return Err(ApiError::unavailable(&status)),
            Err(elapsed) => return Err(ApiError::unavailable(&elapsed)),
        };
        let now = Instant::now();
        let mut snippets = HashMap::with_capacity(found.len());
        for found in found {
            let Ok(group) = GroupId::from_slice(&found.group_id) else {
                continue;
            };
            let snippet = GroupSnippet {
                group_id: group.to_string(),
                name: found.name,
                picture: found.picture,
                member_count: found.member_count,
                version: found.version,
            };
            self.known_groups
                .insert((user, group), (now, snippet.clone()));
            snippets.insert(group, snippet);
        }
        Ok(snippets)
    }

    async fn ask(&self, users: &[UserId]) -> Result<HashMap<UserId, ProfileSnippet>, ApiError> {
        let request = BatchGetProfilesRequest {
            user_ids: users.iter().map(ToString::to_string).collect(),
        };
        let mut profiles = self.profiles.clone();
        let answer =
            tokio::time::timeout(CALL_DEADLINE, profiles.batch_get_profiles(request)).await;
        let profiles = match answer {
            Ok(Ok(answer)) => answer.into_inner().profiles,
            Ok(Err(status)) => return Err(ApiError::unavailable(&status)),
            Err(elapsed) => return Err(ApiError::unavailable(&elapsed)),
        };
        let now = Instant::now();
        let mut snippets = HashMap::with_capacity(profiles.len());
        for profile in profiles {
            let Ok(user) = UserId::parse(&profile.user_id) else {
                continue;
            };
            let snippet = ProfileSnippet {
                user_id: profile.user_id,
                username: profile.username,
                display_name: profile.display_name,
                picture: profile.picture,
            };
            self.known.insert(user, (now, snippet.clone()));
            snippets.insert(user, snippet);
        }
        Ok(snippets)
    }
}
