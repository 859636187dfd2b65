//! The members' marks in one conversation that the app has been told.

use crate::model::{MemberMarks, Watermark};

/// Members whose marks are followed: those of a direct conversation, with room. Marks of more are
/// passed on as they come.
const MEMBERS_MAX: usize = 8;

#[derive(Debug, Default)]
pub(super) struct KnownMarks {
    members: Vec<MemberMarks>,
}

impl KnownMarks {
    /// Takes what is greater; gives the members whose marks have grown, with both marks.
    pub(super) fn merge(&mut self, members: Vec<MemberMarks>) -> Vec<MemberMarks> {
        let mut grown = Vec::new();
        for member in members {
            let known = self
                .members
                .iter_mut()
                .find(|known| known.user_id == member.user_id);
            match known {
                Some(known) => {
                    let delivered = raise(&mut known.delivered, member.delivered);
                    let read = raise(&mut known.read, member.read);
                    if delivered || read {
                        grown.push(known.clone());
                    }
                }
                None => {
                    grown.push(member.clone());
                    if self.members.len() < MEMBERS_MAX {
                        self.members.push(member);
                    }
                }
            }
        }
        grown
    }
}

fn raise(known: &mut Option<Watermark>, to: Option<Watermark>) -> bool {
    let at = |mark: &Option<Watermark>| mark.as_ref().map_or(0, |mark| mark.seq);
    let higher = at(&to) > at(known);
    if higher {
        *known = to;
    }
    higher
}
