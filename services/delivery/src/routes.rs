//! Which edges hold a user's sessions, as far as it is known for certain: the answers of the registry
//! that are leased and watched. That a user has no session is never remembered.

use std::{collections::HashSet, sync::Arc, time::Instant};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use runtime::ids::UserId;

use crate::{Users, push::Link};

/// Users that may change while one look-up is under way before all of its answer is taken once only.
const CHANGED_MAX: usize = 10_000;

/// One edge.
#[derive(Clone)]
pub(crate) enum Target {
    /// This node.
    Here,
    There(Arc<Link>),
}

/// The edges of one user; never none.
#[derive(Clone)]
pub(crate) enum Route {
    One(Target),
    Many(Arc<[Target]>),
}

impl Route {
    pub(crate) fn new(targets: impl IntoIterator<Item = Target>) -> Option<Self> {
        let mut targets = targets.into_iter();
        let first = targets.next()?;
        let Some(second) = targets.next() else {
            return Some(Self::One(first));
        };
        Some(Self::Many(
            [first, second].into_iter().chain(targets).collect(),
        ))
    }

    fn targets(&self) -> &[Target] {
        match self {
            Self::One(target) => std::slice::from_ref(target),
            Self::Many(targets) => targets,
        }
    }

    /// The edges other than this node.
    pub(crate) fn links(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.targets().iter().filter_map(|target| match target {
            Target::Here => None,
            Target::There(link) => Some(link),
        })
    }
}

#[derive(Clone)]
struct Warm {
    route: Route,
    until: Instant,
    /// Whose word it is.
    shard: u32,
}

/// What is to be done with a push.
pub(crate) enum Plan {
    /// All users are on this node, and only here.
    Here,
    Split(Split),
}

/// The users of a push by where they are.
#[derive(Default)]
pub(crate) struct Split {
    pub(crate) here: Users,
    pub(crate) there: Vec<(Arc<Link>, Users)>,
    /// Nothing is known.
    pub(crate) cold: Users,
}

impl Split {
    pub(crate) fn add(&mut self, user: UserId, route: Option<&Route>) {
        let Some(route) = route else {
            self.cold.push(user);
            return;
        };
        for target in route.targets() {
            match target {
                Target::Here => self.here.push(user),
                Target::There(link) => {
                    let known = self.there.iter_mut().find(|(l, _)| Arc::ptr_eq(l, link));
                    match known {
                        Some((_, users)) => users.push(user),
                        None => self.there.push((link.clone(), user.into())),
                    }
                }
            }
        }
    }
}

/// The routes that may be used without asking. One cache for all shards, so that a push need not know
/// whose users it is for.
pub(crate) struct Routes {
    cache: Cache<UserId, Warm>,
    /// By shard.
    validity: Box<[Mutex<Validity>]>,
}

/// Whether answers of a shard may be remembered. The hot path does not look here: what is in the
/// cache is valid.
#[derive(Default)]
struct Validity {
    /// The watch is in force, so changes will be told.
    watched: bool,
    /// Grows whenever a watch breaks.
    generation: u64,
    /// While a look-up is under way: whose routes changed meanwhile. Which of the two came first is
    /// not known then, so the answer is used once and not remembered.
    changed: Option<HashSet<UserId>>,
}

/// A look-up that is under way.
pub(crate) struct Lookup {
    shard: usize,
    generation: Option<u64>,
}

impl Routes {
    pub(crate) fn new(routes_max: usize, shards: usize) -> Self {
        Self {
            cache: Cache::new(routes_max.max(1)),
            validity: (0..shards).map(|_| Mutex::default()).collect(),
        }
    }

    /// Sorts the users of a push by what is known of them.
    pub(crate) fn plan(&self, users: &[UserId], now: Instant) -> Plan {
        let here = |user: &UserId| {
            self.cache.get(user).is_some_and(|warm| {
                warm.until > now && matches!(warm.route, Route::One(Target::Here))
            })
        };
        if users.iter().all(here) {
            return Plan::Here;
        }
        let mut split = Split::default();
        for user in users {
            split.add(*user, self.get(user, now).as_ref());
        }
        Plan::Split(split)
    }

    /// The route of one user, if it is known.
    pub(crate) fn get(&self, user: &UserId, now: Instant) -> Option<Route> {
        let warm = self.cache.get(user)?;
        (warm.until > now).then_some(warm.route)
    }

    /// These users were not where their routes said.
    pub(crate) fn forget(&self, users: &[UserId]) {
        for user in users {
            self.cache.remove(user);
        }
    }

    /// Before a shard is asked; one look-up of each at a time.
    pub(crate) fn begin_lookup(&self, shard: usize) -> Lookup {
        let mut validity = self.validity[shard].lock();
        validity.changed = Some(HashSet::new());
        Lookup {
            shard,
            generation: validity.watched.then_some(validity.generation),
        }
    }

    /// Remembers an answer, as far as nothing has changed since the shard was asked.
    pub(crate) fn end_lookup(
        &self,
        lookup: &Lookup,
        routes: impl IntoIterator<Item = (UserId, Route)>,
        until: Instant,
    ) {
        let mut validity = self.validity[lookup.shard].lock();
        let changed = validity.changed.take().unwrap_or_default();
        let valid = validity.watched && lookup.generation == Some(validity.generation);
        if !valid || changed.len() >= CHANGED_MAX {
            return;
        }
        let shard = number(lookup.shard);
        for (user, route) in routes {
            if !changed.contains(&user) {
                let warm = Warm {
                    route,
                    until,
                    shard,
                };
                self.cache.insert(user, warm);
            }
        }
    }

    /// From now on the shard tells changes.
    pub(crate) fn watch_began(&self, shard: usize) {
        self.validity[shard].lock().watched = true;
    }

    /// The shard tells changes no longer: nothing that is known by its word is certain. Looks through
    /// all routes, some milliseconds, in the task of the broken watch.
    pub(crate) fn watch_broke(&self, shard: usize) {
        let mut validity = self.validity[shard].lock();
        validity.watched = false;
        validity.generation += 1;
        let broken = number(shard);
        self.cache.retain(|_, warm| warm.shard != broken);
    }

    /// The shard told a new route, or that the user has no session any more.
    pub(crate) fn changed(&self, shard: usize, user: UserId, route: Option<Route>) {
        let mut validity = self.validity[shard].lock();
        if let Some(changed) = &mut validity.changed
            && changed.len() < CHANGED_MAX
        {
            changed.insert(user);
        }
        match route {
            // The lease goes on; a route that is not remembered is not wanted.
            Some(route) => {
                if let Some(known) = self.cache.peek(&user) {
                    self.cache.insert(user, Warm { route, ..known });
                }
            }
            None => {
                self.cache.remove(&user);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.cache.len()
    }

    #[cfg(test)]
    pub(crate) fn is_watched(&self) -> bool {
        self.validity.iter().all(|shard| shard.lock().watched)
    }

    /// Changes that the first shard told while its running look-up, if any, was under way.
    #[cfg(test)]
    pub(crate) fn changes(&self) -> usize {
        let first = self.validity[0].lock();
        first.changed.as_ref().map_or(0, HashSet::len)
    }
}

/// The number of a shard, as it is remembered with each route; there are few shards.
fn number(shard: usize) -> u32 {
    u32::try_from(shard).unwrap_or(u32::MAX)
}
