//! Reads: all from the store, which is the truth about membership.

use runtime::ids::{GroupId, UserId};

use crate::{
    CallLimiter, Service,
    decide::Refusal,
    directory::Name,
    error::Error,
    model::{Group, Invitation, JoinRequest, Member, Role, Snippet},
};

/// A page of users, with their names.
pub(crate) struct Named<T> {
    pub(crate) rows: Vec<(T, Name)>,
    pub(crate) more: bool,
}

impl Service {
    /// One group of the caller.
    pub(crate) async fn group(
        &self,
        group: GroupId,
        caller: UserId,
    ) -> Result<(Group, Role), Error> {
        check(&self.reads, caller)?;
        self.role(group, caller).await
    }

    pub(crate) async fn role(
        &self,
        group: GroupId,
        caller: UserId,
    ) -> Result<(Group, Role), Error> {
        let found = self.store.group(group, caller).await?;
        found.ok_or(Error::Refused(Refusal::GroupNotFound))
    }

    async fn check_admin(&self, group: GroupId, caller: UserId) -> Result<(), Error> {
        match self.role(group, caller).await? {
            (_, Role::Admin | Role::Owner) => Ok(()),
            (_, Role::Member) => Err(Refusal::RoleNotSufficient.into()),
        }
    }

    /// A page of the caller's groups, and whether there are more.
    pub(crate) async fn groups(
        &self,
        caller: UserId,
        after: Option<GroupId>,
        limit: usize,
    ) -> Result<(Vec<(Group, Role)>, bool), Error> {
        check(&self.reads, caller)?;
        let mut groups = self.store.groups(caller, after, limit + 1).await?;
        let more = groups.len() > limit;
        groups.truncate(limit);
        Ok((groups, more))
    }

    /// A page of the members of a group of the caller, and the version that it shows.
    pub(crate) async fn members(
        &self,
        group: GroupId,
        caller: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<(u64, Named<Member>), Error> {
        check(&self.reads, caller)?;
        let page = self.store.members(group, caller, after, limit + 1).await?;
        let (version, members) = page.ok_or(Error::Refused(Refusal::GroupNotFound))?;
        let named = self.named(members, limit, |member| member.user_id).await;
        Ok((version, named))
    }

    /// The invitations of a group that are good; for its admins.
    pub(crate) async fn invitations(
        &self,
        group: GroupId,
        caller: UserId,
    ) -> Result<Vec<Invitation>, Error> {
        check(&self.reads, caller)?;
        self.check_admin(group, caller).await?;
        let now = self.clock.now_unix_ms();
        Ok(self.store.invitations(group, now).await?)
    }

    /// A page of those who wait to be let into a group; for its admins.
    pub(crate) async fn join_requests(
        &self,
        group: GroupId,
        caller: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Named<JoinRequest>, Error> {
        check(&self.reads, caller)?;
        self.check_admin(group, caller).await?;
        let waiting = self.store.join_requests(group, after, limit + 1).await?;
        Ok(self.named(waiting, limit, |request| request.user_id).await)
    }

    /// What lists show of groups to a user.
    pub(crate) async fn snippets(
        &self,
        user: UserId,
        groups: Vec<GroupId>,
    ) -> Result<Vec<Snippet>, Error> {
        Ok(self.store.snippets(user, groups).await?)
    }

    async fn named<T>(
        &self,
        mut rows: Vec<T>,
        limit: usize,
        user_of: impl Fn(&T) -> UserId,
    ) -> Named<T> {
        let more = rows.len() > limit;
        rows.truncate(limit);
        let users: Vec<UserId> = rows.iter().map(&user_of).collect();
        let mut names = self.directory.names(&users).await;
        let with_name = |row: T| {
            let name = names.remove(&user_of(&row)).unwrap_or_default();
            (row, name)
        };
        Named {
            rows: rows.into_iter().map(with_name).collect(),
            more,
        }
    }
}

/// Whether the user may make a call now.
pub(crate) fn check(limiter: &CallLimiter, user: UserId) -> Result<(), Error> {
    limiter.check_key(&user).map_err(|early| {
        use governor::clock::{Clock as _, MonotonicClock};
        let retry_after = early.wait_time_from(MonotonicClock.now());
        Error::RateLimited { retry_after }
    })
}
