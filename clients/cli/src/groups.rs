//! Groups on the command line.

mod chat;
mod find;
mod mentions;
mod narrate;
mod people;

use std::time::Duration;

use anyhow::bail;
use console::Style;
use messenger_client::{
    Changed, GroupUpdate, Groups, Joined, NewGroup,
    model::{Group, GroupSettings, HistoryAccess, Role},
};
use serde_json::json;

use self::people::{role_name, user_id, user_ids};
use crate::{
    app::{App, Device},
    args::{Approval, GroupCommand, History, NewRole, NewSettings, Switch},
    attachments,
    terminal::clean,
};

/// How long a change is tried for a person who waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// Groups, members or requests of a page.
const PAGE: i32 = 100;
/// Groups, members or requests that a list shows: as many groups as a user may be in.
pub(super) const LISTED_MAX: usize = 10_000;

pub(crate) async fn run(app: &App, command: &GroupCommand) -> anyhow::Result<()> {
    use GroupCommand as C;
    let device = app.device()?;
    let at = Place::new(app, &device);
    match command {
        C::Create { name, users } => at.create(name, users).await,
        C::Add { group, users } => at.add(group, users).await,
        C::Remove { group, user } => at.remove(group, user).await,
        C::Leave { group } => at.leave(group).await,
        C::Members { group } => at.members(group).await,
        C::Rename { group, name } => at.rename(group, name).await,
        C::List => at.list().await,
        C::Chat { group, limit } => {
            let group = at.find(group).await?;
            chat::run(app, &device, group, *limit).await
        }
        C::Attach { group, attach } => {
            let place = at.place(group).await?;
            attachments::attach(app, &device.client, &place, attach).await
        }
        C::Save { group, save } => {
            let place = at.place(group).await?;
            attachments::save(app, &device.client, &place, save).await
        }
        C::Picture { group, path, .. } => {
            let group = at.find(group).await?;
            let id = &group.group_id;
            let changed = attachments::group_picture(app, &at.groups, id, path.as_ref());
            at.done(&changed.await?, "changed")
        }
        C::Invite {
            group,
            expires,
            uses,
        } => at.invite(group, *expires, *uses).await,
        C::Invitations { group } => at.invitations(group).await,
        C::Revoke {
            group,
            invitation_id,
        } => at.revoke(group, invitation_id).await,
        C::Join { token } => at.join(token).await,
        C::Requests { group } => at.requests(group).await,
        C::Approve { group, user } => at.answer(group, user, Approval::Approve).await,
        C::Decline { group, user } => at.answer(group, user, Approval::Decline).await,
        C::Role { group, user, role } => at.set_role(group, user, *role).await,
        C::Transfer { group, user } => at.transfer(group, user).await,
        C::Settings { group, settings } => at.settings(group, *settings).await,
    }
}

/// Who acts, and how it is shown.
struct Place<'a> {
    app: &'a App,
    device: &'a Device,
    groups: Groups,
}

impl<'a> Place<'a> {
    fn new(app: &'a App, device: &'a Device) -> Self {
        Self {
            app,
            device,
            groups: device.client.groups().patience(PATIENCE),
        }
    }

    async fn find(&self, wanted: &str) -> anyhow::Result<Group> {
        find::group(&self.groups, wanted).await
    }

    async fn place(&self, wanted: &str) -> anyhow::Result<attachments::Place> {
        let group = self.find(wanted).await?;
        // The name may hold what no file may be called; the id tells groups apart well enough.
        let stem = group.group_id.split('-').next().unwrap_or_default();
        Ok(attachments::Place {
            conversation_id: group.conversation_id,
            file_stem: format!("group-{stem}"),
        })
    }

    async fn user_id(&self, name: &str) -> anyhow::Result<String> {
        user_id(self.device, name).await
    }

    /// A change was made.
    fn done(&self, changed: &Changed, what: &str) -> anyhow::Result<()> {
        let group = &changed.group;
        if self.app.json {
            let mut object = group_object(group);
            object["seq"] = changed.seq.into();
            return self.app.object(&object);
        }
        let name = self.app.styled(&clean(&group.name), Style::new().bold());
        let count = group.member_count;
        Ok(self.app.line(format!("{what}: {name}, {count} members"))?)
    }

    async fn create(&self, name: &str, users: &[String]) -> anyhow::Result<()> {
        let group = NewGroup {
            name: name.to_owned(),
            user_ids: user_ids(self.device, users).await?,
            ..NewGroup::default()
        };
        let created = self.groups.create(group).await?;
        self.done(&created, "made")?;
        if !self.app.json {
            let id = &created.group.group_id;
            self.app
                .line(format!("id {id}; try: messenger group chat {id}"))?;
        }
        Ok(())
    }

    async fn add(&self, group: &str, users: &[String]) -> anyhow::Result<()> {
        let group = self.find(group).await?;
        let user_ids = user_ids(self.device, users).await?;
        let added = self.groups.add(&group.group_id, &user_ids).await?;
        self.done(&added, "added")
    }

    async fn remove(&self, group: &str, user: &str) -> anyhow::Result<()> {
        let group = self.find(group).await?;
        let user_id = self.user_id(user).await?;
        let removed = self.groups.remove(&group.group_id, &user_id).await?;
        self.done(&removed, "removed")
    }

    async fn leave(&self, group: &str) -> anyhow::Result<()> {
        let group = self.find(group).await?;
        let seq = self.groups.leave(&group.group_id).await?;
        if self.app.json {
            let left = json!({ "group_id": group.group_id, "left": true, "seq": seq });
            return self.app.object(&left);
        }
        Ok(self.app.line(format!("left {}", clean(&group.name)))?)
    }

    async fn members(&self, group: &str) -> anyhow::Result<()> {
        let group = self.find(group).await?;
        for member in people::members(&self.groups, &group.group_id).await? {
            let role = role_name(member.role());
            if self.app.json {
                self.app.object(&json!({
                    "user_id": member.user_id,
                    "username": member.username,
                    "display_name": member.display_name,
                    "role": role,
                    "joined_unix_ms": member.joined_unix_ms,
                }))?;
                continue;
            }
            let name = people::shown(&member.username, &member.user_id);
            let (name, shown) = (clean(&name), clean(&member.display_name));
            let since = self.app.clock.date_time(member.joined_unix_ms);
            self.app
                .line(format!("{name:<32}  {role:<6}  since {since}  {shown}"))?;
        }
        Ok(())
    }

    async fn rename(&self, group: &str, name: &str) -> anyhow::Result<()> {
        let group = self.find(group).await?;
        let update = GroupUpdate {
            name: Some(name.to_owned()),
            ..GroupUpdate::default()
        };
        let renamed = self.groups.update(&group.group_id, update).await?;
        self.done(&renamed, "renamed")
    }

    async fn list(&self) -> anyhow::Result<()> {
        let groups = find::all(&self.groups).await?;
        for group in &groups {
            if self.app.json {
                self.app.object(&group_object(group))?;
                continue;
            }
            let (count, role) = (group.member_count, role_name(group.role()));
            let (id, name) = (&group.group_id, clean(&group.name));
            self.app
                .line(format!("{id}  {count:>6}  {role:<6}  {name}"))?;
        }
        if !self.app.json && groups.is_empty() {
            self.app
                .line("no groups; try: messenger group create NAME USER...")?;
        }
        Ok(())
    }

    async fn invite(&self, group: &str, hours: Option<u32>, uses: u32) -> anyhow::Result<()> {
        let group = self.find(group).await?;
        let expires_in = hours.map(|hours| Duration::from_secs(u64::from(hours) * 3_600));
        let made = self
            .groups
            .create_invitation(&group.group_id, expires_in, uses);
        let (invitation, token) = made.await?;
        if self.app.json {
            return self.app.object(&json!({
                "group_id": group.group_id,
                "invitation_id": invitation.invitation_id,
                "token": token,
                "expires_unix_ms": invitation.expires_unix_ms,
                "uses_max": invitation.uses_max,
            }));
        }
        self.app.line(&token)?;
        let note = "-- whoever has this token can join: messenger group join TOKEN";
        Ok(self.app.line(self.app.styled(note, Style::new().dim()))?)
    }

    async fn invitations(&self, group: &str) -> anyhow::Result<()> {
        let group = self.find(group).await?;
        for invitation in self.groups.invitations(&group.group_id).await? {
            if self.app.json {
                self.app.object(&json!({
                    "invitation_id": invitation.invitation_id,
                    "created_by": invitation.created_by,
                    "created_unix_ms": invitation.created_unix_ms,
                    "expires_unix_ms": invitation.expires_unix_ms,
                    "uses": invitation.uses,
                    "uses_max": invitation.uses_max,
                }))?;
                continue;
            }
            let until = match invitation.expires_unix_ms {
                0 => "for ever".to_owned(),
                at => format!("until {}", self.app.clock.date_time(at)),
            };
            let uses = match (invitation.uses, invitation.uses_max) {
                (uses, 0) => format!("used {uses} times"),
                (uses, max) => format!("used {uses} of {max} times"),
            };
            self.app.line(format!(
                "{}  {until}, {uses}",
                clean(&invitation.invitation_id)
            ))?;
        }
        Ok(())
    }

    async fn revoke(&self, group: &str, invitation_id: &str) -> anyhow::Result<()> {
        let group = self.find(group).await?;
        self.groups
            .revoke_invitation(&group.group_id, invitation_id)
            .await?;
        if self.app.json {
            return self.app.object(&json!({ "revoked": invitation_id }));
        }
        Ok(self.app.line("revoked")?)
    }

    async fn join(&self, token: &str) -> anyhow::Result<()> {
        match self.groups.join(token).await? {
            Joined::Member(changed) => self.done(&changed, "joined"),
            Joined::WaitsForApproval if self.app.json => {
                self.app.object(&json!({ "waits_for_approval": true }))
            }
            Joined::WaitsForApproval => {
                Ok(self.app.line("asked to join; an admin has to approve")?)
            }
        }
    }

    async fn requests(&self, group: &str) -> anyhow::Result<()> {
        let group = self.find(group).await?;
        let (mut count, mut page_token) = (0, String::new());
        loop {
            let page = self
                .groups
                .join_requests(&group.group_id, PAGE, &page_token);
            let page = page.await?;
            count += page.join_requests.len();
            for request in page.join_requests {
                if self.app.json {
                    self.app.object(&json!({
                        "user_id": request.user_id,
                        "username": request.username,
                        "display_name": request.display_name,
                        "requested_unix_ms": request.requested_unix_ms,
                    }))?;
                    continue;
                }
                let name = people::shown(&request.username, &request.user_id);
                let since = self.app.clock.date_time(request.requested_unix_ms);
                self.app
                    .line(format!("{:<32}  since {since}", clean(&name)))?;
            }
            page_token = page.next_page_token;
            if page_token.is_empty() || count >= LISTED_MAX {
                break;
            }
        }
        if !self.app.json && count == 0 {
            self.app.line("nobody waits")?;
        }
        Ok(())
    }

    async fn answer(&self, group: &str, user: &str, approval: Approval) -> anyhow::Result<()> {
        let group = self.find(group).await?;
        let user_id = self.user_id(user).await?;
        let approve = approval == Approval::Approve;
        let answered = self
            .groups
            .answer_join_request(&group.group_id, &user_id, approve);
        let what = if approve { "let in" } else { "declined" };
        self.done(&answered.await?, what)
    }

    async fn set_role(&self, group: &str, user: &str, role: NewRole) -> anyhow::Result<()> {
        let group = self.find(group).await?;
        let user_id = self.user_id(user).await?;
        let (role, what) = match role {
            NewRole::Admin => (Role::Admin, "an admin now"),
            NewRole::Member => (Role::Member, "a member now"),
        };
        let changed = self
            .groups
            .set_role(&group.group_id, &user_id, role)
            .await?;
        self.done(&changed, what)
    }

    async fn transfer(&self, group: &str, user: &str) -> anyhow::Result<()> {
        let group = self.find(group).await?;
        let user_id = self.user_id(user).await?;
        let changed = self.groups.transfer(&group.group_id, &user_id).await?;
        self.done(&changed, "passed on")
    }

    async fn settings(&self, group: &str, wanted: NewSettings) -> anyhow::Result<()> {
        let group = self.find(group).await?;
        let Some(mut settings) = group.settings else {
            bail!("the server does not say what the settings are");
        };
        if wanted != NewSettings::default() {
            change(&mut settings, wanted);
            let update = GroupUpdate {
                // What is not named must stay as it is now, whoever changes it meanwhile.
                if_version: group.version,
                settings: Some(settings),
                ..GroupUpdate::default()
            };
            let changed = self.groups.update(&group.group_id, update).await?;
            settings = changed.group.settings.unwrap_or(settings);
        }
        let switch = |on| if on { "on" } else { "off" };
        let history = match settings.history_access() {
            HistoryAccess::All => "all",
            _ => "joining",
        };
        if self.app.json {
            return self.app.object(&json!({
                "group_id": group.group_id,
                "announcement": settings.announcement,
                "history": history,
                "approve": settings.approve_joining,
                "info_by_admins": settings.info_by_admins,
                "add_by_admins": settings.add_by_admins,
            }));
        }
        for (name, value) in [
            ("announcement", switch(settings.announcement)),
            ("history", history),
            ("approve", switch(settings.approve_joining)),
        ] {
            self.app.line(format!("{name:<12}  {value}"))?;
        }
        Ok(())
    }
}

fn change(settings: &mut GroupSettings, wanted: NewSettings) {
    if let Some(announcement) = wanted.announcement {
        settings.announcement = announcement == Switch::On;
    }
    if let Some(approve) = wanted.approve {
        settings.approve_joining = approve == Switch::On;
    }
    match wanted.history {
        Some(History::All) => settings.set_history_access(HistoryAccess::All),
        Some(History::Joining) => settings.set_history_access(HistoryAccess::SinceJoining),
        None => {}
    }
}

fn group_object(group: &Group) -> serde_json::Value {
    json!({
        "group_id": group.group_id,
        "conversation_id": group.conversation_id,
        "name": group.name,
        "description": group.description,
        "member_count": group.member_count,
        "version": group.version,
        "role": role_name(group.role()),
    })
}
