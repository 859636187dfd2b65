//! What will be done: who there is, what each device does, all of it a function of the seed.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::history::{Keeps, No};

/// How much is to happen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    /// Accounts.
    pub users: No,
    /// Devices of each.
    pub devices_per_user: No,
    /// Direct conversations.
    pub conversations: No,
    /// Groups, which have users of their own.
    pub groups: No,
    /// Messages a second, over all.
    pub rate: f64,
}

/// One device of the cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRole {
    /// Whose.
    pub user: No,
    /// What it keeps.
    pub keeps: Keeps,
    /// Its conversations are those of the user; see [`Cast::of_user`].
    pub number: No,
}

/// Who there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cast {
    /// By number.
    pub devices: Vec<DeviceRole>,
    /// The members of each, the smaller number first; the first ones are the hot ones.
    pub conversations: Vec<[No; 2]>,
    users: No,
}

/// One thing that a device does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "a variant says what its fields are")]
pub enum Op {
    /// So many messages at once through the session.
    Send { conversation: No, texts: Vec<u32> },
    /// One message as a call.
    SendCall { conversation: No, text: u32 },
    /// A message that the user has sent lately, sent again as a call.
    Again { pick: u32 },
    /// What became of a message that the user has sent lately.
    Status { pick: u32 },
    /// A message that must be refused.
    Refused { conversation: No, how: Bad },
    /// The newest message that the user holds is read.
    MarkRead { conversation: No, as_call: bool },
    /// A page of history that must contain what the user holds.
    Read(ReadOp),
    /// The conversation list.
    List,
    /// The count of unread messages.
    UnreadTotal,
    /// The app ends, and begins again after a while.
    Restart { killed: bool, away: Duration },
}

/// Which page of history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOp {
    /// Of which conversation.
    pub conversation: No,
    /// `ListMessages` or `ListEvents`.
    pub messages: bool,
    /// The direction.
    pub newest_first: bool,
    /// Events or messages at most.
    pub page_size: i32,
    /// Where the range begins, in 1/1000 of what the user holds; `None` = no bound.
    pub from: Option<u32>,
    /// Whether the range ends at what the user holds.
    pub bounded: bool,
}

/// Why a message must be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// It has no text.
    Empty,
    /// Its text has a scalar value too many.
    TooLong,
    /// Its text has what stores cannot hold.
    Nul,
    /// Its conversation is one of others.
    OfOthers,
}

/// What devices keep, in turn: half of them everything.
const KEEPS: [Keeps; 6] = [
    Keeps::Cache,
    Keeps::Nothing,
    Keeps::Cache,
    Keeps::Places,
    Keeps::Cache,
    Keeps::NothingAll,
];
/// Messages of a burst: mostly one, sometimes many.
const BURSTS: [usize; 8] = [1, 1, 1, 1, 2, 3, 6, 14];
/// Of 1,000 operations, those that send a burst.
const SENDS_PERMILLE: u32 = 520;

impl Cast {
    /// The cast of a seed.
    pub fn new(seed: u64, size: &Size) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let users = size.users.max(2);
        let mut pairs: Vec<[No; 2]> = (0..users)
            .flat_map(|one| (one + 1..users).map(move |other| [one, other]))
            .collect();
        pairs.shuffle(&mut random);
        pairs.truncate(usize::from(size.conversations.max(1)));
        let devices = (0..users)
            .flat_map(|user| (0..size.devices_per_user.max(1)).map(move |nth| (user, nth)))
            .enumerate()
            .map(|(number, (user, nth))| DeviceRole {
                user,
                keeps: KEEPS[(usize::from(user) * 5 + usize::from(nth)) % KEEPS.len()],
                number: No::try_from(number).unwrap_or(No::MAX),
            })
            .collect();
        Self {
            devices,
            conversations: pairs,
            users,
        }
    }

    /// Numbers of users.
    pub fn users(&self) -> std::ops::Range<No> {
        0..self.users
    }

    /// The conversations of a user, hot ones first.
    pub fn of_user(&self, user: No) -> Vec<No> {
        (0..)
            .zip(&self.conversations)
            .filter(|(_, members)| members.contains(&user))
            .map(|(conversation, _)| conversation)
            .collect()
    }
}

/// What one device does: pauses and operations, without an end.
#[derive(Debug)]
pub struct Script {
    random: StdRng,
    own: Vec<No>,
    others: Vec<No>,
    pause_mean: f64,
    texts: u32,
}

impl Script {
    /// The script of a device; `texts` is how many there are to choose from.
    pub fn new(seed: u64, size: &Size, cast: &Cast, role: DeviceRole, texts: usize) -> Self {
        let own = cast.of_user(role.user);
        let others = (0..)
            .take(cast.conversations.len())
            .filter(|conversation| !own.contains(conversation))
            .collect();
        // Users without a conversation do nothing, so that the others make the rate.
        let active = cast
            .devices
            .iter()
            .filter(|device| !cast.of_user(device.user).is_empty())
            .count();
        let burst_mean = BURSTS.iter().sum::<usize>() as f64 / BURSTS.len() as f64;
        let per_op = burst_mean * f64::from(SENDS_PERMILLE) / 1_000.0;
        let ops_per_second = size.rate.max(0.1) / per_op;
        Self {
            random: StdRng::seed_from_u64(seed ^ ((u64::from(role.number) + 1) << 32)),
            own,
            others,
            pause_mean: active.max(1) as f64 / ops_per_second,
            texts: u32::try_from(texts).unwrap_or(u32::MAX).max(1),
        }
    }

    /// Hot conversations are the first ones: each half as likely as the one before, down to a floor.
    fn conversation(&mut self) -> No {
        for conversation in &self.own {
            if self.random.random_bool(0.4) {
                return *conversation;
            }
        }
        self.own[self.random.random_range(0..self.own.len())]
    }

    fn text(&mut self) -> u32 {
        self.random.random_range(0..self.texts)
    }

    fn op(&mut self) -> Op {
        let conversation = self.conversation();
        let kind = self.random.random_range(0..1_000);
        match kind {
            0..SENDS_PERMILLE => {
                let count = BURSTS[self.random.random_range(0..BURSTS.len())];
                let texts = (0..count).map(|_| self.text()).collect();
                Op::Send {
                    conversation,
                    texts,
                }
            }
            520..550 => Op::SendCall {
                conversation,
                text: self.text(),
            },
            550..590 => Op::Again {
                pick: self.random.random(),
            },
            590..630 => Op::Status {
                pick: self.random.random(),
            },
            630..640 => self.refused(conversation),
            640..740 => Op::MarkRead {
                conversation,
                as_call: self.random.random_bool(0.3),
            },
            740..900 => Op::Read(self.read(conversation)),
            900..960 => Op::List,
            960..990 => Op::UnreadTotal,
            _ => Op::Restart {
                killed: self.random.random_bool(0.7),
                away: Duration::from_millis(self.random.random_range(0..2_500)),
            },
        }
    }

    fn refused(&mut self, own: No) -> Op {
        let how = match self.random.random_range(0..4) {
            0 => Bad::Empty,
            1 => Bad::TooLong,
            2 => Bad::Nul,
            _ if self.others.is_empty() => Bad::Empty,
            _ => Bad::OfOthers,
        };
        let conversation = match how {
            Bad::OfOthers => self.others[self.random.random_range(0..self.others.len())],
            _ => own,
        };
        Op::Refused { conversation, how }
    }

    fn read(&mut self, conversation: No) -> ReadOp {
        ReadOp {
            conversation,
            messages: self.random.random_bool(0.5),
            newest_first: self.random.random_bool(0.5),
            page_size: [1, 7, 20, 50, 200][self.random.random_range(0..5)],
            from: self
                .random
                .random_bool(0.6)
                .then(|| self.random.random_range(0..1_000)),
            bounded: self.random.random_bool(0.3),
        }
    }
}

impl Iterator for Script {
    type Item = (Duration, Op);

    fn next(&mut self) -> Option<Self::Item> {
        if self.own.is_empty() {
            return None;
        }
        // Pauses as of people who know nothing of each other.
        let unit: f64 = self.random.random_range(1e-6..1.0);
        let pause = (-unit.ln() * self.pause_mean).min(self.pause_mean * 10.0);
        Some((Duration::from_secs_f64(pause), self.op()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size {
        users: 20,
        devices_per_user: 2,
        conversations: 30,
        groups: 0,
        rate: 100.0,
    };

    fn script(seed: u64, device: usize) -> Vec<(Duration, Op)> {
        let cast = Cast::new(seed, &SIZE);
        let role = cast.devices[device];
        Script::new(seed, &SIZE, &cast, role, 1_000)
            .take(200)
            .collect()
    }

    #[test]
    fn a_seed_repeats_the_plan() {
        assert_eq!(Cast::new(7, &SIZE), Cast::new(7, &SIZE));
        assert_ne!(Cast::new(7, &SIZE), Cast::new(8, &SIZE));
        assert_eq!(script(7, 3), script(7, 3));
        assert_ne!(script(7, 3), script(8, 3));
        assert_ne!(script(7, 3), script(7, 4));
    }

    #[test]
    fn a_plan_has_operations_of_every_kind() {
        let cast = Cast::new(1, &SIZE);
        let role = cast.devices[0];
        let script = Script::new(1, &SIZE, &cast, role, 1_000);
        let mut kinds: Vec<_> = script
            .take(5_000)
            .map(|(_, op)| std::mem::discriminant(&op))
            .collect();
        kinds.sort_by_key(|kind| format!("{kind:?}"));
        kinds.dedup();
        assert_eq!(kinds.len(), 10);
    }
}
