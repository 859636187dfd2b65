//! The people of groups: their ids, names and roles.

use std::collections::HashMap;

use messenger_client::{
    Client, Groups,
    model::{Member, Role},
};

use super::LISTED_MAX;
use crate::{app::Device, home::username};

/// Members of a page.
const PAGE: i32 = 200;
/// Letters of an id that stands for a name that is not known.
const ID_SHOWN: usize = 8;
/// Names that are remembered; more than a group has members, since people come and go.
const NAMES_MAX: usize = 20_000;

pub(super) async fn user_id(device: &Device, name: &str) -> anyhow::Result<String> {
    let profile = device.client.profile_by_username(&username(name)?).await?;
    Ok(profile.user_id)
}

pub(super) async fn user_ids(device: &Device, names: &[String]) -> anyhow::Result<Vec<String>> {
    let mut user_ids = Vec::with_capacity(names.len());
    for name in names {
        user_ids.push(user_id(device, name).await?);
    }
    Ok(user_ids)
}

/// All members of a group.
pub(super) async fn members(groups: &Groups, group_id: &str) -> anyhow::Result<Vec<Member>> {
    let (mut members, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = groups.members(group_id, PAGE, &page_token).await?;
        members.extend(page.members);
        page_token = page.next_page_token;
        if page_token.is_empty() || members.len() >= LISTED_MAX {
            return Ok(members);
        }
    }
}

pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Owner => "owner",
        Role::Admin => "admin",
        Role::Member => "member",
        Role::Unspecified => "",
    }
}

/// The name, or else the beginning of the id.
pub(super) fn shown(username: &str, user_id: &str) -> String {
    match username {
        "" => user_id.chars().take(ID_SHOWN).collect(),
        name => name.to_owned(),
    }
}

/// The usernames of those who say and do something in a group.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_id: HashMap<String, String>,
}

impl Names {
    pub(super) fn insert(&mut self, user_id: &str, username: &str) {
        if !username.is_empty() && self.by_id.len() < NAMES_MAX {
            self.by_id.insert(user_id.to_owned(), username.to_owned());
        }
    }

    /// Asks for the names that are not known; those that cannot be had are shown as ids.
    pub(super) async fn learn(&mut self, client: &Client, user_ids: Vec<String>) {
        let unknown = user_ids
            .into_iter()
            .filter(|id| !self.by_id.contains_key(id));
        let mut unknown: Vec<String> = unknown.collect();
        unknown.sort_unstable();
        unknown.dedup();
        if unknown.is_empty() {
            return;
        }
        for profile in client.profiles(&unknown).await.unwrap_or_default() {
            self.insert(&profile.user_id, &profile.username);
        }
    }

    pub(super) fn of(&self, user_id: &str) -> String {
        let name = self.by_id.get(user_id).map_or("", String::as_str);
        shown(name, user_id)
    }

    /// Who is called so.
    pub(super) fn id_of(&self, username: &str) -> Option<&str> {
        let mut named = self.by_id.iter().filter(|(_, name)| *name == username);
        named.next().map(|(user_id, _)| user_id.as_str())
    }
}
