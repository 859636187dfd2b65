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

/// The routes that may be used without asking.
pub(crate) struct Routes {
    cache: Cache<UserId, Warm>,
    validity: Mutex<Validity>,
}

/// Whether answers of the registry may be remembered. The hot path does not look here: what is in the
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
    generation: Option<u64>,
}

impl Routes {
    pub(crate) fn new(routes_max: usize) -> Self {
        Self {
            cache: Cache::new(routes_max.max(1)),
            validity: Mutex::new(Validity::default()),
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

    /// Before the registry is asked.
    pub(crate) fn begin_lookup(&self) -> Lookup {
        let mut validity = self.validity.lock();
        validity.changed = Some(HashSet::new());
        Lookup {
            generation: validity.watched.then_some(validity.generation),
        }
    }

    /// Remembers an answer, as far as nothing has changed since the registry was asked.
    pub(crate) fn end_lookup(
        &self,
        lookup: &Lookup,
        routes: impl IntoIterator<Item = (UserId, Route)>,
        until: Instant,
    ) {
        let mut validity = self.validity.lock();
        let changed = validity.changed.take().unwrap_or_default();
        let valid = validity.watched && lookup.generation == Some(validity.generation);
        if !valid || changed.len() >= CHANGED_MAX {
            return;
        }
        for (user, route) in routes {
            if !changed.contains(&user) {
                self.cache.insert(user, Warm { route, until });
            }
        }
    }

    /// From now on the registry tells changes.
    pub(crate) fn watch_began(&self) {
        self.validity.lock().watched = true;
    }

    /// Changes are told no longer: nothing that is known is certain.
    pub(crate) fn watch_broke(&self) {
        let mut validity = self.validity.lock();
        validity.watched = false;
        validity.generation += 1;
        self.cache.clear();
    }

    /// The registry told a new route, or that the user has no session any more.
    pub(crate) fn changed(&self, user: UserId, route: Option<Route>) {
        let mut validity = self.validity.lock();
        if let Some(changed) = &mut validity.changed
            && changed.len() < CHANGED_MAX
        {
            changed.insert(user);
        }
        match route {
            // The lease goes on; a route that is not remembered is not wanted.
            Some(route) => {
                if let Some(Warm { until, .. }) = self.cache.peek(&user) {
                    self.cache.insert(user, Warm { route, until });
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
        self.validity.lock().watched
    }

    /// Changes that were told while the running look-up, if any, was under way.
    #[cfg(test)]
    pub(crate) fn changes(&self) -> usize {
        self.validity
            .lock()
            .changed
            .as_ref()
            .map_or(0, HashSet::len)
    }
}
