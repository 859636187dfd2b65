//! The edge's side of `EdgeService.Push`.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt};
use prost::Message;
use proto::{
    log::v1::Verdict,
    messaging::v1::{
        self as wire, PushItem, PushRequest, PushResponse, edge_service_server::EdgeService,
        push_item,
    },
};
use runtime::{
    ids::{DeviceId, InvalidId, UserId},
    shutdown::CancellationToken,
};
use tonic::{Request, Response, Status, Streaming};

use crate::{Answer, Broadcast, LocalEdge, Users};

/// Takes what other nodes push to the sessions of this one: the gRPC service, to be added to the
/// node's server with access for services only.
pub struct PushReceiver {
    local: Arc<dyn LocalEdge>,
    stop: CancellationToken,
}

impl PushReceiver {
    /// Hands over to `local` until `stop`, which ends the streams.
    pub fn new(local: Arc<dyn LocalEdge>, stop: CancellationToken) -> Self {
        Self { local, stop }
    }
}

#[tonic::async_trait]
impl EdgeService for PushReceiver {
    type PushStream = Pin<Box<dyn Stream<Item = Result<PushResponse, Status>> + Send>>;

    async fn push(
        &self,
        requests: Request<Streaming<PushRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let local = self.local.clone();
        // Driven by the stream of answers, which the connection pulls: a sender that does not read
        // the answers is not read either.
        let answers = requests
            .into_inner()
            .map(move |request| request.map(|request| take(&*local, request)))
            .take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(Box::pin(answers)))
    }
}

fn take(local: &dyn LocalEdge, request: PushRequest) -> PushResponse {
    let mut missed = 0_u32;
    for item in request.items {
        match take_item(local, item) {
            Ok(n) => missed = missed.saturating_add(n),
            // A sender that is newer or wrong; the rest of its items is for others.
            Err(error) => tracing::warn!(%error, "push item skipped"),
        }
    }
    PushResponse { missed }
}

#[derive(Debug, thiserror::Error)]
enum BadItem {
    #[error(transparent)]
    Id(#[from] InvalidId),
    #[error("verdict: {0}")]
    Verdict(#[from] prost::DecodeError),
    #[error("unknown kind")]
    UnknownKind,
}

fn take_item(local: &dyn LocalEdge, item: PushItem) -> Result<u32, BadItem> {
    match item.item.ok_or(BadItem::UnknownKind)? {
        push_item::Item::Broadcast(wire::Broadcast {
            user_ids,
            frame,
            except_session_id,
            inbox_version,
        }) => {
            let users: Result<Users, InvalidId> =
                user_ids.iter().map(|id| UserId::from_slice(id)).collect();
            Ok(local.broadcast(&Broadcast {
                users: users?,
                frame,
                except_session_id,
                inbox_version,
            }))
        }
        push_item::Item::Answer(answer) => {
            local.answer(Answer {
                session_id: answer.session_id,
                request_id: answer.request_id,
                verdict: Verdict::decode(answer.verdict)?,
            });
            Ok(0)
        }
        push_item::Item::EndSessions(end) => {
            local.end_sessions(
                UserId::from_slice(&end.user_id)?,
                DeviceId::from_slice(&end.device_id)?,
            );
            Ok(0)
        }
    }
}
