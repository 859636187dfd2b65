//! What becomes of a group when somebody wants something of it, as the table of roles says.

use super::*;

impl Made {
    /// The change, or nothing if it is so already, or why not.
    pub(super) fn decide(
        &self,
        user: No,
        group: No,
        asked: &Asked,
    ) -> Result<Option<Change>, &'static str> {
        let of = &self.groups[usize::from(group)];
        let role_of = |user: No| of.roles.get(&user).copied().unwrap_or(Role::Nobody);
        let role = role_of(user);
        let is_new = matches!(asked, Asked::Create(_) | Asked::Join);
        if role == Role::Nobody && !is_new {
            return Err("GROUP_NOT_FOUND");
        }
        let at_least = |least: Role| (role >= least).then_some(()).ok_or("ROLE_NOT_SUFFICIENT");
        let (mut announcement, mut name) = (of.announcement, None);
        let (kind, members) = match asked {
            Asked::Create(others) => {
                let others = others.iter().map(|other| (Some(*other), Role::Member));
                let all = others.chain([(Some(user), Role::Owner)]).collect();
                (Kind::Created, all)
            }
            Asked::Add(other) if role_of(*other) > Role::Nobody => return Ok(None),
            Asked::Add(other) => (Kind::Added, vec![(Some(*other), Role::Member)]),
            Asked::Remove(other) => {
                at_least(Role::Admin)?;
                match role_of(*other) {
                    Role::Nobody => return Err("MEMBER_NOT_FOUND"),
                    other if other >= role => return Err("ROLE_NOT_SUFFICIENT"),
                    _ => (Kind::Removed, vec![(Some(*other), Role::Nobody)]),
                }
            }
            Asked::Leave => (Kind::Left, vec![(Some(user), Role::Nobody)]),
            Asked::Join if role > Role::Nobody => return Ok(None),
            Asked::Join => (Kind::Joined, vec![(Some(user), Role::Member)]),
            Asked::SetRole(other, wanted) => {
                at_least(Role::Owner)?;
                match role_of(*other) {
                    Role::Nobody => return Err("MEMBER_NOT_FOUND"),
                    Role::Owner => return Err("ROLE_NOT_SUFFICIENT"),
                    is if is == *wanted => return Ok(None),
                    _ => (Kind::Roles, vec![(Some(*other), *wanted)]),
                }
            }
            Asked::Announcement(on) => {
                at_least(Role::Admin)?;
                if *on == announcement {
                    return Ok(None);
                }
                announcement = *on;
                (Kind::Updated, Vec::new())
            }
            Asked::Rename(new) => {
                name = Some(new.clone());
                (Kind::Updated, Vec::new())
            }
        };
        let mut after = of.roles.clone();
        for (member, role) in &members {
            match role {
                Role::Nobody => after.remove(&member.unwrap()),
                role => after.insert(member.unwrap(), *role),
            };
        }
        Ok(Some(Change {
            version: of.version + 1,
            kind,
            members,
            name,
            announcement,
            member_count: after.len() as u32,
        }))
    }
}
