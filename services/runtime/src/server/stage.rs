//! What a listener answers before and after its services are there.
//!
//! A process listens from its first moment, so that whoever looks sees that it lives and waits: its
//! health answers, everything else is UNAVAILABLE with a time to try again. Once the services are
//! there they are let in, on the connections that are open already.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use proto::error::v1::ErrorReason;
use tonic::{Status, service::Routes};
use tower::Layer;

use crate::{
    auth::{AuthLayer, AuthService, is_standard},
    gateway::Gateway,
    status::ApiError,
};

/// When to try again what a process that is still starting refused.
const STARTING_RETRY: Duration = Duration::from_secs(1);

/// What a listener answers now. Clones share it.
#[derive(Clone)]
pub struct Stage {
    early: Option<AuthService<Routes>>,
    open: Arc<OnceLock<Open>>,
}

struct Open {
    services: AuthService<Routes>,
    gateway: Option<Gateway>,
}

/// Who is to answer a call.
pub(super) enum Answerer {
    Services(AuthService<Routes>),
    Gateway(Gateway),
    Nobody(Status),
}

impl Stage {
    /// Only what answers early, such as health, until [`Stage::open`].
    pub fn early(standard: Routes, auth: &AuthLayer) -> Self {
        Self {
            early: Some(auth.layer(standard.prepare())),
            open: Arc::default(),
        }
    }

    /// Everything at once.
    pub fn all(routes: Routes, auth: &AuthLayer) -> Self {
        let stage = Self {
            early: None,
            open: Arc::default(),
        };
        stage.open(routes, auth, None);
        stage
    }

    /// Lets the services in. The gateway answers for services of other processes. Only once: what
    /// comes later changes nothing.
    pub fn open(&self, routes: Routes, auth: &AuthLayer, gateway: Option<Gateway>) {
        let services = auth.layer(routes.prepare());
        let opened = self.open.set(Open { services, gateway });
        debug_assert!(opened.is_ok(), "a stage is opened once");
    }

    pub(super) fn answerer(&self, path: &str) -> Answerer {
        if let Some(open) = self.open.get() {
            return match &open.gateway {
                Some(gateway) if gateway.takes(path) => Answerer::Gateway(gateway.clone()),
                _ => Answerer::Services(open.services.clone()),
            };
        }
        match &self.early {
            Some(early) if is_standard(path) => Answerer::Services(early.clone()),
            _ => Answerer::Nobody(starting()),
        }
    }
}

fn starting() -> Status {
    ApiError::retry_after(
        ErrorReason::Unavailable,
        "the server is starting",
        STARTING_RETRY,
    )
    .into()
}
