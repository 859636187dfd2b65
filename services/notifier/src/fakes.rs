//! What stands in for the other services in tests of this one.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use proto::{
    groups::v1::{
        BatchGetSnippetsRequest, BatchGetSnippetsResponse, Snippet,
        directory_service_server::DirectoryService,
    },
    messaging::v1::{
        BatchGetUnreadRequest, BatchGetUnreadResponse, ListUnreadRequest, ListUnreadResponse,
        Unread, UnreadConversation, inbox_service_server::InboxService,
    },
    profile::v1::{
        BatchGetProfilesRequest, BatchGetProfilesResponse, GetProfileRequest, GetProfileResponse,
        Profile, SearchProfilesRequest, SearchProfilesResponse, UpdateProfileRequest,
        UpdateProfileResponse, profile_service_server::ProfileService,
    },
};
use tonic::{Request, Response, Status, async_trait};

/// What is unread, by user; everybody is called Ada, and every group Crew.
#[derive(Clone, Default)]
pub(crate) struct Others {
    pub(crate) unread: Arc<Mutex<HashMap<Vec<u8>, Vec<UnreadConversation>>>>,
    /// It answers nobody.
    pub(crate) is_away: Arc<AtomicBool>,
    /// Times that somebody asked what is unread.
    pub(crate) asked: Arc<AtomicUsize>,
}

#[async_trait]
impl InboxService for Others {
    async fn batch_get_unread(
        &self,
        request: Request<BatchGetUnreadRequest>,
    ) -> Result<Response<BatchGetUnreadResponse>, Status> {
        let of = |conversation_id| UnreadConversation {
            conversation_id,
            unread_count: 1,
            ..UnreadConversation::default()
        };
        let queries = request.into_inner().queries.into_iter();
        let answers = queries.map(|query| Unread {
            inbox_version: query.min_inbox_version,
            unread_total: 1,
            conversations: query.conversation_ids.into_iter().map(of).collect(),
        });
        Ok(Response::new(BatchGetUnreadResponse {
            answers: answers.collect(),
        }))
    }

    async fn list_unread(
        &self,
        request: Request<ListUnreadRequest>,
    ) -> Result<Response<ListUnreadResponse>, Status> {
        let request = request.get_ref();
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.is_away.load(Ordering::SeqCst) {
            return Err(Status::unavailable("away"));
        }
        let all = self.unread.lock();
        let mut conversations = all.get(&request.user_id).cloned().unwrap_or_default();
        let unread_total = conversations.iter().map(|of| of.unread_count).sum();
        let limit = usize::try_from(request.limit).unwrap();
        let more = conversations.len().saturating_sub(limit);
        conversations.truncate(limit);
        Ok(Response::new(ListUnreadResponse {
            unread: Some(Unread {
                conversations,
                unread_total,
                ..Unread::default()
            }),
            more: u32::try_from(more).unwrap(),
        }))
    }
}

#[async_trait]
impl ProfileService for Others {
    async fn get_profile(
        &self,
        _: Request<GetProfileRequest>,
    ) -> Result<Response<GetProfileResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn batch_get_profiles(
        &self,
        request: Request<BatchGetProfilesRequest>,
    ) -> Result<Response<BatchGetProfilesResponse>, Status> {
        let ids = request.into_inner().user_ids.into_iter();
        let profiles = ids.map(|user_id| Profile {
            user_id,
            display_name: "Ada".to_owned(),
            ..Profile::default()
        });
        Ok(Response::new(BatchGetProfilesResponse {
            profiles: profiles.collect(),
        }))
    }

    async fn update_profile(
        &self,
        _: Request<UpdateProfileRequest>,
    ) -> Result<Response<UpdateProfileResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn search_profiles(
        &self,
        _: Request<SearchProfilesRequest>,
    ) -> Result<Response<SearchProfilesResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

#[async_trait]
impl DirectoryService for Others {
    async fn batch_get_snippets(
        &self,
        request: Request<BatchGetSnippetsRequest>,
    ) -> Result<Response<BatchGetSnippetsResponse>, Status> {
        let ids = request.into_inner().group_ids.into_iter();
        let snippets = ids.map(|group_id| Snippet {
            group_id,
            name: "Crew".to_owned(),
            ..Snippet::default()
        });
        Ok(Response::new(BatchGetSnippetsResponse {
            snippets: snippets.collect(),
        }))
    }
}
