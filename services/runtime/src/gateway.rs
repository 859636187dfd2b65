//! Passes calls on to the process that has their service, so that a client needs one address and one
//! connection for everything.
//!
//! It decides nothing: the token goes along, and the service at the other end asks for it. A call is
//! passed on as it is, frame by frame, with its deadline; nothing is held here.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use proto::error::v1::ErrorReason;
use tonic::{Status, body::Body, transport::Channel};
use tower::{Service, ServiceExt};

use crate::status::ApiError;

/// When to try again if no replica of the service can be reached: about when one of them is back.
const RETRY: Duration = Duration::from_millis(500);

/// Which services are elsewhere, and how they are reached. Clones share the channels.
#[derive(Clone)]
pub struct Gateway {
    /// Beginnings of paths.
    routes: Arc<[(String, Channel)]>,
    /// Whole paths; they count first.
    methods: Arc<[(String, Channel)]>,
}

impl Gateway {
    /// Passes on the services with these full names, such as `messenger.profile.v1.AccountService`.
    pub fn new<'a>(services: impl IntoIterator<Item = (&'a str, Channel)>) -> Self {
        let routes = services
            .into_iter()
            .map(|(service, channel)| (format!("/{service}/"), channel))
            .collect();
        Self {
            routes,
            methods: Arc::default(),
        }
    }

    /// Passes on one method, such as `messenger.blob.v1.BlobService/Upload`, over a channel of its own.
    #[must_use]
    pub fn with_method(self, method: &str, channel: Channel) -> Self {
        let methods = self.methods.iter().cloned();
        Self {
            methods: methods.chain([(format!("/{method}"), channel)]).collect(),
            ..self
        }
    }

    /// Whether a call of this path is passed on.
    pub(crate) fn takes(&self, path: &str) -> bool {
        self.channel(path).is_some()
    }

    fn channel(&self, path: &str) -> Option<&Channel> {
        let method = self.methods.iter().find(|(method, _)| path == method);
        let route = || {
            let mut routes = self.routes.iter();
            routes.find(|(prefix, _)| path.starts_with(prefix))
        };
        method.or_else(route).map(|(_, channel)| channel)
    }

    pub(crate) async fn pass_on(self, request: Request<Incoming>) -> Response<Body> {
        let Some(mut channel) = self.channel(request.uri().path()).cloned() else {
            return Status::unimplemented("no such method").into_http();
        };
        let answer = async { channel.ready().await?.call(request.map(Body::new)).await };
        match answer.await {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(%error, "not passed on");
                unreachable().into_http()
            }
        }
    }
}

fn unreachable() -> Status {
    ApiError::retry_after(
        ErrorReason::Unavailable,
        "the service cannot be reached",
        RETRY,
    )
    .into()
}
