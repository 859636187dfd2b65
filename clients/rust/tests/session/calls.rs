//! The calls of the fake server: those that a session makes, and those that log in.

use messenger_client::ErrorReason;
use proto::{
    messaging::v1::{self as pb, messaging_service_server as messaging},
    profile::v1::{
        self as profile, account_service_server as account, profile_service_server as people,
    },
};
use tonic::{
    Code, Request, Response, Status,
    transport::{Server, server::Router},
};

use super::{ME, RANGES_MAX, Service, status};

pub(super) fn add(mut server: Server, service: &Service) -> Router {
    server
        .add_service(messaging::MessagingServiceServer::new(service.clone()))
        .add_service(account::AccountServiceServer::new(service.clone()))
        .add_service(people::ProfileServiceServer::new(service.clone()))
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in the fake server"))
}

#[tonic::async_trait]
impl messaging::MessagingService for Service {
    async fn list_changes(
        &self,
        request: Request<pb::ListChangesRequest>,
    ) -> Result<Response<pb::ListChangesResponse>, Status> {
        self.authorize(&request)?;
        let request = request.into_inner();
        let mut state = self.0.lock();
        state.seen.changes_calls += 1;
        let mut versions = std::collections::BTreeMap::new();
        for id in state.conversations.keys() {
            let at = state.changes.iter().rposition(|changed| changed == id);
            let version = at.unwrap() as u64 + 1;
            if version > request.after_version {
                versions.insert(version, id.clone());
            }
        }
        let size = usize::try_from(request.page_size).unwrap();
        let more = versions.len() > size;
        let rows: Vec<_> = versions
            .iter()
            .take(size)
            .map(|(version, id)| state.row(id, *version))
            .collect();
        let version = match rows.last() {
            Some(row) if more => row.version,
            _ => state.version(),
        };
        Ok(Response::new(pb::ListChangesResponse {
            conversations: rows,
            version,
            more,
            ..pb::ListChangesResponse::default()
        }))
    }

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        self.authorize(&request)?;
        let ranges = request.into_inner().ranges;
        assert!(!ranges.is_empty() && ranges.len() <= RANGES_MAX);
        let mut state = self.0.lock();
        state.seen.events_calls += 1;
        // Every answer has room for some events only.
        let mut room = 2_000_usize;
        let page = |range: &pb::EventRange| {
            let id = &range.conversation_id;
            let events = state.conversations.get(id).cloned().unwrap_or_default();
            let last_seq = events.last().map_or(0, |event| event.seq);
            assert!(range.min_seq <= last_seq, "asked for what is not there");
            let size = usize::try_from(range.page_size).unwrap().min(room);
            let after = range.after_seq;
            let covered = (after + size as u64).min(last_seq);
            let is_in_page = |event: &pb::Event| event.seq > after && event.seq <= covered;
            let found: Vec<_> = events.into_iter().filter(is_in_page).collect();
            room -= found.len();
            let to_seq = if covered > after { covered } else { 0 };
            pb::EventPage {
                conversation_id: id.clone(),
                from_seq: if to_seq == 0 { 0 } else { range.after_seq + 1 },
                to_seq,
                events: found,
                last_seq,
                more: to_seq.max(range.after_seq) < last_seq,
            }
        };
        let pages = ranges.iter().map(page).collect();
        Ok(Response::new(pb::ListEventsResponse { pages }))
    }

    async fn get_unread_total(
        &self,
        request: Request<pb::GetUnreadTotalRequest>,
    ) -> Result<Response<pb::GetUnreadTotalResponse>, Status> {
        self.authorize(&request)?;
        Ok(Response::new(pb::GetUnreadTotalResponse::default()))
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

    async fn list_conversations(
        &self,
        _: Request<pb::ListConversationsRequest>,
    ) -> Result<Response<pb::ListConversationsResponse>, Status> {
        not_here()
    }

    async fn get_conversation(
        &self,
        _: Request<pb::GetConversationRequest>,
    ) -> Result<Response<pb::GetConversationResponse>, Status> {
        not_here()
    }

    async fn list_receipts(
        &self,
        request: Request<pb::ListReceiptsRequest>,
    ) -> Result<Response<pb::ListReceiptsResponse>, Status> {
        self.authorize(&request)?;
        let request = request.into_inner();
        Ok(Response::new(pb::ListReceiptsResponse {
            message_index: request.message_index,
            member_count: 3,
            delivered_count: 2,
            read_count: 1,
            ..pb::ListReceiptsResponse::default()
        }))
    }

    async fn list_messages(
        &self,
        _: Request<pb::ListMessagesRequest>,
    ) -> Result<Response<pb::ListMessagesResponse>, Status> {
        not_here()
    }

    async fn mark_read(
        &self,
        _: Request<pb::MarkReadRequest>,
    ) -> Result<Response<pb::MarkReadResponse>, Status> {
        not_here()
    }
}

#[tonic::async_trait]
impl account::AccountService for Service {
    async fn log_in(
        &self,
        request: Request<profile::LogInRequest>,
    ) -> Result<Response<profile::LogInResponse>, Status> {
        if request.into_inner().password != "right" {
            return Err(status(
                Code::Unauthenticated,
                ErrorReason::CredentialsInvalid,
            ));
        }
        Ok(Response::new(profile::LogInResponse {
            profile: Some(profile::Profile {
                user_id: ME.to_owned(),
                username: ME.to_owned(),
                ..profile::Profile::default()
            }),
            device_id: "device".to_owned(),
            tokens: Some(self.0.lock().issue()),
        }))
    }

    async fn refresh(
        &self,
        request: Request<profile::RefreshRequest>,
    ) -> Result<Response<profile::RefreshResponse>, Status> {
        let mut state = self.0.lock();
        if request.into_inner().refresh_token != state.refresh_token {
            return Err(status(
                Code::Unauthenticated,
                ErrorReason::RefreshTokenReused,
            ));
        }
        state.seen.refreshes += 1;
        Ok(Response::new(profile::RefreshResponse {
            user_id: ME.to_owned(),
            device_id: "device".to_owned(),
            tokens: Some(state.issue()),
        }))
    }

    async fn register(
        &self,
        _: Request<profile::RegisterRequest>,
    ) -> Result<Response<profile::RegisterResponse>, Status> {
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
impl people::ProfileService for Service {
    async fn update_profile(
        &self,
        request: Request<profile::UpdateProfileRequest>,
    ) -> Result<Response<profile::UpdateProfileResponse>, Status> {
        self.authorize(&request)?;
        let mut state = self.0.lock();
        if let Some(receipt) = request.into_inner().picture_receipt {
            state.picture = receipt;
        }
        Ok(Response::new(profile::UpdateProfileResponse {
            profile: Some(profile::Profile {
                user_id: ME.to_owned(),
                picture: state.picture.clone(),
                ..profile::Profile::default()
            }),
        }))
    }

    async fn get_profile(
        &self,
        _: Request<profile::GetProfileRequest>,
    ) -> Result<Response<profile::GetProfileResponse>, Status> {
        not_here()
    }

    async fn batch_get_profiles(
        &self,
        _: Request<profile::BatchGetProfilesRequest>,
    ) -> Result<Response<profile::BatchGetProfilesResponse>, Status> {
        not_here()
    }

    async fn search_profiles(
        &self,
        _: Request<profile::SearchProfilesRequest>,
    ) -> Result<Response<profile::SearchProfilesResponse>, Status> {
        not_here()
    }
}
