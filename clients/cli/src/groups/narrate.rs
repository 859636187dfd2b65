//! Changes of groups as lines that a person reads: "ada added grace".

use messenger_client::{
    GroupChange,
    model::{GroupChangeKind, Role},
};

use crate::terminal::clean;

/// Names that one line shows.
const NAMES_MAX: usize = 8;

/// The line; `name` gives the name of a user.
pub(super) fn line(change: &GroupChange, name: impl Fn(&str) -> String) -> String {
    use GroupChangeKind as K;
    let actor = clean(&name(&change.actor_id)).into_owned();
    let others: Vec<&str> = change
        .members
        .iter()
        .map(|member| member.user_id.as_str())
        .filter(|user_id| *user_id != change.actor_id)
        .collect();
    let names = |ids: &[&str]| {
        let shown = ids
            .iter()
            .take(NAMES_MAX)
            .map(|id| clean(&name(id)).into_owned());
        let mut text = shown.collect::<Vec<_>>().join(", ");
        if ids.len() > NAMES_MAX {
            text += &format!(" and {} others", ids.len() - NAMES_MAX);
        }
        text
    };
    match change.kind {
        K::Created if others.is_empty() => format!("{actor} made the group"),
        K::Created => format!("{actor} made the group with {}", names(&others)),
        K::Added => format!("{actor} added {}", names(&others)),
        K::Removed => format!("{actor} removed {}", names(&others)),
        K::Left => match owner(change) {
            Some(owner) => format!("{actor} left; {} owns the group now", clean(&name(owner))),
            None => format!("{actor} left"),
        },
        K::Joined if others.is_empty() => format!("{actor} joined"),
        K::Joined => format!("{actor} let {} in", names(&others)),
        K::Roles => match owner(change) {
            Some(owner) => format!("{actor} made {} the owner", clean(&name(owner))),
            None => {
                let is_admin = |id: &&&str| change.role_of(id) == Some(Role::Admin);
                let admin = others.iter().find(is_admin).is_some();
                let role = if admin { "an admin" } else { "a member" };
                format!("{actor} made {} {role}", names(&others))
            }
        },
        K::Updated => updated(change, &actor),
        K::Unspecified => format!("{actor} changed something"),
    }
}

fn updated(change: &GroupChange, actor: &str) -> String {
    let mut what = Vec::new();
    if let Some(name) = &change.name {
        what.push(format!("called the group {:?}", clean(name)));
    }
    match change.description.as_deref() {
        None => {}
        Some("") => what.push("removed the description".to_owned()),
        Some(text) => what.push(format!("changed the description to {:?}", clean(text))),
    }
    if change.picture.is_some() {
        what.push("changed the picture".to_owned());
    }
    if what.is_empty() {
        let who = if change.announcement {
            "admins write"
        } else {
            "everybody writes"
        };
        what.push(format!("changed the settings ({who})"));
    }
    format!("{actor} {}", what.join(" and "))
}

fn owner(change: &GroupChange) -> Option<&str> {
    let owner = u32::try_from(i32::from(Role::Owner)).ok()?;
    let mut owners = change.members.iter().filter(|member| member.role == owner);
    owners.next().map(|member| member.user_id.as_str())
}

#[cfg(test)]
mod tests {
    use messenger_client::model::ChangedMember;

    use super::*;

    #[test]
    fn a_change_is_told_in_one_line() {
        use GroupChangeKind as K;
        let told = |kind, members: &[(&str, u32)], name: Option<&str>| {
            let members = members.iter().map(|(user_id, role)| ChangedMember {
                user_id: (*user_id).to_owned(),
                role: *role,
            });
            let change = GroupChange {
                conversation_id: "g:1".to_owned(),
                seq: 1,
                message_index: 0,
                time_unix_ms: 0,
                actor_id: "ada".to_owned(),
                version: 1,
                kind,
                members: members.collect(),
                name: name.map(str::to_owned),
                description: None,
                picture: None,
                announcement: true,
                member_count: 2,
            };
            line(&change, |id| format!("{id}\x1b"))
        };
        let crowd: Vec<_> = (0..11).map(|_| ("bob", 1)).collect();
        for (line, expected) in [
            (told(K::Created, &[("ada", 3)], None), "ada made the group"),
            (told(K::Added, &[("grace", 1)], None), "ada added grace"),
            (told(K::Removed, &[("grace", 0)], None), "ada removed grace"),
            (told(K::Left, &[("ada", 0)], None), "ada left"),
            (
                told(K::Left, &[("ada", 0), ("bob", 3)], None),
                "ada left; bob owns the group now",
            ),
            (told(K::Joined, &[("ada", 1)], None), "ada joined"),
            (told(K::Joined, &[("bob", 1)], None), "ada let bob in"),
            (told(K::Roles, &[("bob", 2)], None), "ada made bob an admin"),
            (told(K::Roles, &[("bob", 1)], None), "ada made bob a member"),
            (
                told(K::Roles, &[("ada", 2), ("bob", 3)], None),
                "ada made bob the owner",
            ),
            (
                told(K::Updated, &[], Some("chess")),
                "ada called the group \"chess\"",
            ),
            (
                told(K::Updated, &[], None),
                "ada changed the settings (admins write)",
            ),
            (
                told(K::Added, &crowd, None),
                "ada added bob, bob, bob, bob, bob, bob, bob, bob and 3 others",
            ),
        ] {
            // Names of other people steer no terminal.
            assert_eq!(line.replace('\u{fffd}', ""), expected);
        }
    }
}
