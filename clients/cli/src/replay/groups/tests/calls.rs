//! The services of the fake server.

use std::pin::Pin;

use proto::{
    groups::v1::{self as groups, group_service_server as group},
    messaging::v1::{
        self as pb, GroupChangeKind as Kind, client_frame, messaging_service_server as messaging,
        server_frame::Frame, session_service_server as session,
    },
    profile::v1::{self as profile, account_service_server as account},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::fake::{FRAMES_MAX, Fault, Service, change};

type WeakSender = mpsc::WeakSender<Result<pb::ServerFrame, Status>>;

/// Longer than a test.
const HEARTBEAT_MS: u32 = 600_000;
const EXPIRES_UNIX_MS: i64 = 4_000_000_000_000;

/// Serves on a free port, as long as the runtime lives; gives the url.
pub(super) async fn serve(service: &Service) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder()
        .add_service(account::AccountServiceServer::new(service.clone()))
        .add_service(group::GroupServiceServer::new(service.clone()))
        .add_service(messaging::MessagingServiceServer::new(service.clone()))
        .add_service(session::SessionServiceServer::new(service.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    url
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in the fake server"))
}

impl Service {
    /// A new device of a user.
    fn device(&self, user_id: &str) -> (Option<profile::Profile>, String, Option<profile::Tokens>) {
        let mut state = self.state();
        state.devices += 1;
        let device_id = state.devices.to_string();
        let access_token = format!("{user_id}/{device_id}");
        let tokens = profile::Tokens {
            refresh_token: access_token.clone(),
            access_token,
            access_expires_unix_ms: EXPIRES_UNIX_MS,
            refresh_expires_unix_ms: EXPIRES_UNIX_MS,
        };
        let profile = profile::Profile {
            user_id: user_id.to_owned(),
            ..profile::Profile::default()
        };
        (Some(profile), device_id, Some(tokens))
    }

    /// Carries out a change of a group by the caller; the answer may get lost.
    #[allow(clippy::result_large_err)] // As tonic has it.
    fn change<T>(
        &self,
        request: &Request<T>,
        group_id: &str,
        request_id: &str,
        what: pb::GroupChange,
    ) -> Result<(groups::Group, u64), Status> {
        let (_, user_id) = self.caller(request)?;
        let mut state = self.state();
        state.asked += 1;
        let turn = match state.fault {
            Fault::Rough => state.asked % 5,
            _ => 4,
        };
        if turn == 1 {
            return Err(Status::unavailable("away"));
        }
        let seq = state.change(group_id, request_id, &user_id, what);
        match turn {
            3 => Err(Status::unavailable("the answer is lost")),
            // The event was not seen in time.
            2 => Ok((state.group(group_id), 0)),
            _ => Ok((state.group(group_id), seq)),
        }
    }
}

#[tonic::async_trait]
impl account::AccountService for Service {
    async fn register(
        &self,
        request: Request<profile::RegisterRequest>,
    ) -> Result<Response<profile::RegisterResponse>, Status> {
        let request = request.into_inner();
        let user_id = format!("user-{}", request.username);
        let account = (user_id.clone(), request.password);
        self.state().users.insert(request.username, account);
        let (profile, device_id, tokens) = self.device(&user_id);
        Ok(Response::new(profile::RegisterResponse {
            profile,
            device_id,
            tokens,
        }))
    }

    async fn log_in(
        &self,
        request: Request<profile::LogInRequest>,
    ) -> Result<Response<profile::LogInResponse>, Status> {
        let user_id = self.state().users[&request.into_inner().username].0.clone();
        let (profile, device_id, tokens) = self.device(&user_id);
        Ok(Response::new(profile::LogInResponse {
            profile,
            device_id,
            tokens,
        }))
    }

    async fn refresh(
        &self,
        _: Request<profile::RefreshRequest>,
    ) -> Result<Response<profile::RefreshResponse>, Status> {
        not_here()
    }

    async fn log_out_device(
        &self,
        _: Request<profile::LogOutDeviceRequest>,
    ) -> Result<Response<profile::LogOutDeviceResponse>, Status> {
        not_here()
    }

    async fn list_devices(
        &self,
        _: Request<profile::ListDevicesRequest>,
    ) -> Result<Response<profile::ListDevicesResponse>, Status> {
        not_here()
    }

    async fn list_public_keys(
        &self,
        _: Request<profile::ListPublicKeysRequest>,
    ) -> Result<Response<profile::ListPublicKeysResponse>, Status> {
        not_here()
    }
}

#[tonic::async_trait]
impl messaging::MessagingService for Service {
    async fn list_conversations(
        &self,
        request: Request<pb::ListConversationsRequest>,
    ) -> Result<Response<pb::ListConversationsResponse>, Status> {
        let (_, user_id) = self.caller(&request)?;
        let conversations = self.state().rows(&user_id);
        let unread_total = conversations.iter().map(|row| row.unread_count).sum();
        Ok(Response::new(pb::ListConversationsResponse {
            conversations,
            unread_total,
            ..pb::ListConversationsResponse::default()
        }))
    }

    async fn list_changes(
        &self,
        request: Request<pb::ListChangesRequest>,
    ) -> Result<Response<pb::ListChangesResponse>, Status> {
        let (_, user_id) = self.caller(&request)?;
        let after = request.into_inner().after_version;
        let state = self.state();
        let mut conversations = state.rows(&user_id);
        conversations.retain(|row| row.version > after);
        Ok(Response::new(pb::ListChangesResponse {
            conversations,
            version: state.versions.get(&user_id).copied().unwrap_or(0),
            ..pb::ListChangesResponse::default()
        }))
    }

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        let (_, user_id) = self.caller(&request)?;
        let state = self.state();
        let page = |range: pb::EventRange| {
            let group = &state.groups[range.conversation_id.strip_prefix("g:").unwrap()];
            let last_seq = group.events.len() as u64;
            let size = u64::try_from(range.page_size).unwrap();
            let to_seq = last_seq.min(range.after_seq + size);
            let is_due = |event: &&pb::Event| {
                let is_in_page = event.seq > range.after_seq && event.seq <= to_seq;
                is_in_page && group.sees(&user_id, event.seq, state.fault)
            };
            pb::EventPage {
                from_seq: range.after_seq + 1,
                to_seq,
                events: group.events.iter().filter(is_due).cloned().collect(),
                last_seq,
                more: to_seq < last_seq,
                conversation_id: range.conversation_id,
            }
        };
        let pages = request.into_inner().ranges.into_iter().map(page).collect();
        Ok(Response::new(pb::ListEventsResponse { pages }))
    }

    async fn mark_read(
        &self,
        request: Request<pb::MarkReadRequest>,
    ) -> Result<Response<pb::MarkReadResponse>, Status> {
        let (_, user_id) = self.caller(&request)?;
        let request = request.into_inner();
        let index = request.up_to.unwrap_or_default().message_index;
        self.state().read(&user_id, &request.conversation_id, index);
        Ok(Response::new(pb::MarkReadResponse {}))
    }

    async fn open_direct_conversation(
        &self,
        _: Request<pb::OpenDirectConversationRequest>,
    ) -> Result<Response<pb::OpenDirectConversationResponse>, Status> {
        not_here()
    }

    async fn send_message(
        &self,
        _: Request<pb::SendMessageRequest>,
    ) -> Result<Response<pb::SendMessageResponse>, Status> {
        not_here()
    }

    async fn get_send_status(
        &self,
        _: Request<pb::GetSendStatusRequest>,
    ) -> Result<Response<pb::GetSendStatusResponse>, Status> {
        not_here()
    }

    async fn get_conversation(
        &self,
        _: Request<pb::GetConversationRequest>,
    ) -> Result<Response<pb::GetConversationResponse>, Status> {
        not_here()
    }

    async fn list_messages(
        &self,
        _: Request<pb::ListMessagesRequest>,
    ) -> Result<Response<pb::ListMessagesResponse>, Status> {
        not_here()
    }

    async fn get_unread_total(
        &self,
        _: Request<pb::GetUnreadTotalRequest>,
    ) -> Result<Response<pb::GetUnreadTotalResponse>, Status> {
        not_here()
    }

    async fn list_receipts(
        &self,
        _: Request<pb::ListReceiptsRequest>,
    ) -> Result<Response<pb::ListReceiptsResponse>, Status> {
        not_here()
    }
}

#[tonic::async_trait]
impl group::GroupService for Service {
    async fn create_group(
        &self,
        request: Request<groups::CreateGroupRequest>,
    ) -> Result<Response<groups::CreateGroupResponse>, Status> {
        let (_, user_id) = self.caller(&request)?;
        let created = change(Kind::Created, &[user_id], 3);
        // The same request makes the same group.
        let id = &request.get_ref().request_id;
        let (group, seq) = self.change(&request, id, id, created)?;
        let group = Some(group);
        Ok(Response::new(groups::CreateGroupResponse { group, seq }))
    }

    async fn update_group(
        &self,
        request: Request<groups::UpdateGroupRequest>,
    ) -> Result<Response<groups::UpdateGroupResponse>, Status> {
        let asked = request.get_ref();
        let what = pb::GroupChange {
            description: asked.description.clone(),
            ..change(Kind::Updated, &[], 0)
        };
        let (group, seq) = self.change(&request, &asked.group_id, &asked.request_id, what)?;
        let group = Some(group);
        Ok(Response::new(groups::UpdateGroupResponse { group, seq }))
    }

    async fn add_members(
        &self,
        request: Request<groups::AddMembersRequest>,
    ) -> Result<Response<groups::AddMembersResponse>, Status> {
        let asked = request.get_ref();
        let what = change(Kind::Added, &asked.user_ids, 1);
        let (group, seq) = self.change(&request, &asked.group_id, &asked.request_id, what)?;
        let group = Some(group);
        Ok(Response::new(groups::AddMembersResponse { group, seq }))
    }

    async fn remove_member(
        &self,
        request: Request<groups::RemoveMemberRequest>,
    ) -> Result<Response<groups::RemoveMemberResponse>, Status> {
        let asked = request.get_ref();
        let what = change(Kind::Removed, std::slice::from_ref(&asked.user_id), 0);
        let (group, seq) = self.change(&request, &asked.group_id, &asked.request_id, what)?;
        let group = Some(group);
        Ok(Response::new(groups::RemoveMemberResponse { group, seq }))
    }

    async fn leave_group(
        &self,
        request: Request<groups::LeaveGroupRequest>,
    ) -> Result<Response<groups::LeaveGroupResponse>, Status> {
        let (_, user_id) = self.caller(&request)?;
        let asked = request.get_ref();
        let what = change(Kind::Left, &[user_id], 0);
        let (_, seq) = self.change(&request, &asked.group_id, &asked.request_id, what)?;
        Ok(Response::new(groups::LeaveGroupResponse { seq }))
    }

    async fn set_role(
        &self,
        _: Request<groups::SetRoleRequest>,
    ) -> Result<Response<groups::SetRoleResponse>, Status> {
        not_here()
    }

    async fn transfer_ownership(
        &self,
        _: Request<groups::TransferOwnershipRequest>,
    ) -> Result<Response<groups::TransferOwnershipResponse>, Status> {
        not_here()
    }

    async fn get_group(
        &self,
        _: Request<groups::GetGroupRequest>,
    ) -> Result<Response<groups::GetGroupResponse>, Status> {
        not_here()
    }

    async fn list_groups(
        &self,
        _: Request<groups::ListGroupsRequest>,
    ) -> Result<Response<groups::ListGroupsResponse>, Status> {
        not_here()
    }

    async fn list_members(
        &self,
        _: Request<groups::ListMembersRequest>,
    ) -> Result<Response<groups::ListMembersResponse>, Status> {
        not_here()
    }

    async fn create_invitation(
        &self,
        _: Request<groups::CreateInvitationRequest>,
    ) -> Result<Response<groups::CreateInvitationResponse>, Status> {
        not_here()
    }

    async fn list_invitations(
        &self,
        _: Request<groups::ListInvitationsRequest>,
    ) -> Result<Response<groups::ListInvitationsResponse>, Status> {
        not_here()
    }

    async fn revoke_invitation(
        &self,
        _: Request<groups::RevokeInvitationRequest>,
    ) -> Result<Response<groups::RevokeInvitationResponse>, Status> {
        not_here()
    }

    async fn join_group(
        &self,
        _: Request<groups::JoinGroupRequest>,
    ) -> Result<Response<groups::JoinGroupResponse>, Status> {
        not_here()
    }

    async fn list_join_requests(
        &self,
        _: Request<groups::ListJoinRequestsRequest>,
    ) -> Result<Response<groups::ListJoinRequestsResponse>, Status> {
        not_here()
    }

    async fn answer_join_request(
        &self,
        _: Request<groups::AnswerJoinRequestRequest>,
    ) -> Result<Response<groups::AnswerJoinRequestResponse>, Status> {
        not_here()
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<pb::ServerFrame, Status>> + Send>>;

#[tonic::async_trait]
impl session::SessionService for Service {
    type SessionStream = Frames;

    async fn session(
        &self,
        request: Request<Streaming<pb::ClientFrame>>,
    ) -> Result<Response<Frames>, Status> {
        let (token, user_id) = self.caller(&request)?;
        let mut frames = request.into_inner();
        let hello = frames.message().await?.unwrap_or_default();
        let (sender, receiver) = mpsc::channel(FRAMES_MAX);
        let mut state = self.state();
        let welcome = pb::Welcome {
            protocol_version: 1,
            user_id: user_id.clone(),
            inbox_version: state.versions.get(&user_id).copied().unwrap_or(0),
            heartbeat_interval_ms: HEARTBEAT_MS,
            limits: Some(pb::SessionLimits {
                text_chars_max: 700,
                frame_bytes_max: 16 * 1024,
                in_flight_max: 8,
                ..pb::SessionLimits::default()
            }),
            ..pb::Welcome::default()
        };
        let welcome = pb::ServerFrame {
            request_id: hello.request_id,
            frame: Some(Frame::Welcome(welcome)),
        };
        sender.try_send(Ok(welcome)).unwrap();
        let own = sender.downgrade();
        state
            .sessions
            .insert(token.clone(), (user_id.clone(), sender));
        drop(state);
        tokio::spawn(self.clone().hear(own, token, user_id, frames));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Service {
    async fn hear(
        self,
        own: WeakSender,
        token: String,
        user_id: String,
        mut frames: Streaming<pb::ClientFrame>,
    ) {
        while let Ok(Some(frame)) = frames.message().await {
            let mut state = self.state();
            let answer = match frame.frame {
                Some(client_frame::Frame::Send(send)) => {
                    state.asked += 1;
                    let turn = match state.fault {
                        Fault::Rough => state.asked % 11,
                        _ => 0,
                    };
                    // 4: broken before it is taken; 8: after.
                    let event = (turn != 4).then(|| state.say(&user_id, &token, &send));
                    if turn == 4 || turn == 8 {
                        state.sessions.remove(&token);
                        return;
                    }
                    event.flatten().map(|event| {
                        Frame::SendAck(pb::SendAck {
                            conversation_id: send.conversation_id,
                            message_id: send.message_id,
                            seq: event.seq,
                            message_index: event.message_index,
                            time_unix_ms: 1,
                            duplicate: false,
                        })
                    })
                }
                Some(client_frame::Frame::Read(read)) => {
                    let index = read.up_to.unwrap_or_default().message_index;
                    state.read(&user_id, &read.conversation_id, index);
                    None
                }
                _ => None,
            };
            if let (Some(answer), Some((_, session))) = (answer, state.sessions.get(&token)) {
                let _ = session.try_send(Ok(pb::ServerFrame {
                    request_id: frame.request_id,
                    frame: Some(answer),
                }));
            }
        }
        // The client has closed its half; a newer session may have taken its place.
        let mut state = self.state();
        let now = state.sessions.get(&token).map(|(_, session)| session);
        if own
            .upgrade()
            .is_some_and(|own| now.is_some_and(|now| now.same_channel(&own)))
        {
            state.sessions.remove(&token);
        }
    }
}
