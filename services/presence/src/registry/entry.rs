//! What the registry holds of one user, kept small: most have one session and few lessees.

/// A session: the edge's number here, and its id there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) edge: u32,
    pub(super) session_id: u64,
}

/// Somebody was told where the user is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    /// The number of the watch.
    pub(super) watch: u32,
    /// Seconds since the registry began.
    pub(super) until_s: u32,
    /// A change waits to be told already.
    pub(super) telling: bool,
}

/// A user with at least one session.
#[derive(Debug, Default)]
pub(super) struct Entry {
    sessions: Sessions,
    pub(super) leases: Vec<Lease>,
}

#[derive(Debug, Default)]
enum Sessions {
    #[default]
    None,
    One(Held),
    /// Several devices.
    #[allow(
        clippy::box_collection,
        reason = "a vector in place would grow every user"
    )]
    Many(Box<Vec<Held>>),
}

impl Entry {
    pub(super) fn sessions(&self) -> &[Held] {
        match &self.sessions {
            Sessions::None => &[],
            Sessions::One(held) => std::slice::from_ref(held),
            Sessions::Many(held) => held,
        }
    }

    pub(super) fn has_session_on(&self, edge: u32) -> bool {
        self.sessions().iter().any(|held| held.edge == edge)
    }

    /// Answers whether the user's edges changed. The session must not be there yet.
    pub(super) fn add(&mut self, held: Held) -> bool {
        let changes = !self.has_session_on(held.edge);
        match &mut self.sessions {
            Sessions::None => self.sessions = Sessions::One(held),
            Sessions::One(first) => {
                self.sessions = Sessions::Many(Box::new(vec![*first, held]));
            }
            Sessions::Many(all) => all.push(held),
        }
        changes
    }

    /// Answers whether the user's edges changed.
    pub(super) fn remove(&mut self, held: Held) -> bool {
        match &mut self.sessions {
            Sessions::None => {}
            Sessions::One(only) => {
                if *only == held {
                    self.sessions = Sessions::None;
                }
            }
            Sessions::Many(all) => {
                all.retain(|other| *other != held);
                if let [only] = all[..] {
                    self.sessions = Sessions::One(only);
                }
            }
        }
        !self.has_session_on(held.edge)
    }

    /// The edges, each once.
    pub(super) fn edges(&self) -> impl Iterator<Item = u32> {
        let sessions = self.sessions();
        sessions
            .iter()
            .enumerate()
            .filter(|(i, held)| {
                sessions
                    .iter()
                    .take(*i)
                    .all(|other| other.edge != held.edge)
            })
            .map(|(_, held)| held.edge)
    }
}
