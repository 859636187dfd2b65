//! Users and their devices, through bare calls.

use proto::{
    messaging::v1::{self as wire, messaging_service_client::MessagingServiceClient},
    presence::v1::{GetPresenceRequest, Presence, presence_service_client::PresenceServiceClient},
    profile::v1::{
        LogInRequest, LogOutDeviceRequest, RefreshRequest, RegisterRequest, Tokens,
        account_service_client::AccountServiceClient,
    },
};
use tonic::{
    Request, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use uuid::Uuid;

use crate::DEADLINE;

/// The password of all test users.
pub const PASSWORD: &str = "correct horse battery";

/// Calls of messaging with a device's token.
pub type Messaging = MessagingServiceClient<InterceptedService<Channel, Bearer>>;

/// Puts a token on each call.
#[derive(Debug, Clone)]
pub struct Bearer(pub String);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = format!("Bearer {}", self.0).parse();
        let value = value.map_err(|_| Status::internal("the token does not fit a header"))?;
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

/// A device of a user that is logged in.
#[derive(Debug, Clone)]
pub struct Device {
    /// The server.
    pub url: String,
    /// The user's name.
    pub username: String,
    /// The user.
    pub user_id: String,
    /// The device.
    pub device_id: String,
    /// What it holds.
    pub tokens: Tokens,
    channel: Channel,
}

/// Connects when it is first used, and again after the connection broke.
pub fn connect(url: &str) -> Channel {
    Endpoint::from_shared(url.to_owned())
        .expect("a URL")
        .timeout(DEADLINE)
        .tcp_nodelay(true)
        .connect_lazy()
}

/// Makes a user with one device.
pub async fn register(url: &str, username: &str) -> Device {
    try_register(url, username).await.expect("register")
}

/// The same, if it is not refused.
pub async fn try_register(url: &str, username: &str) -> Result<Device, Status> {
    let channel = connect(url);
    let request = RegisterRequest {
        username: username.to_owned(),
        password: PASSWORD.to_owned(),
        ..RegisterRequest::default()
    };
    let answer = AccountServiceClient::new(channel.clone())
        .register(request)
        .await?
        .into_inner();
    Ok(Device {
        url: url.to_owned(),
        username: username.to_owned(),
        user_id: answer.profile.unwrap_or_default().user_id,
        device_id: answer.device_id,
        tokens: answer.tokens.unwrap_or_default(),
        channel,
    })
}

/// The direct conversation of two users, by the rule that `messaging.proto` gives to clients.
pub fn direct(one: &str, other: &str) -> String {
    let (low, high) = if one < other {
        (one, other)
    } else {
        (other, one)
    };
    format!("d:{low}:{high}")
}

impl Device {
    /// Another device of the same user.
    pub async fn second_device(&self) -> Self {
        self.log_in("").await
    }

    /// This device, logged in again.
    pub async fn log_in_again(&self) -> Self {
        self.log_in(&self.device_id).await
    }

    async fn log_in(&self, device_id: &str) -> Self {
        let request = LogInRequest {
            username: self.username.clone(),
            password: PASSWORD.to_owned(),
            device_name: String::new(),
            device_id: device_id.to_owned(),
        };
        let answer = self.accounts().log_in(request).await;
        let answer = answer.expect("log in").into_inner();
        Self {
            device_id: answer.device_id,
            tokens: answer.tokens.unwrap_or_default(),
            channel: connect(&self.url),
            ..self.clone()
        }
    }

    /// Gets fresh tokens.
    pub async fn refresh(&mut self) {
        let request = RefreshRequest {
            refresh_token: self.tokens.refresh_token.clone(),
        };
        let answer = self.accounts().refresh(request).await;
        self.tokens = answer
            .expect("refresh")
            .into_inner()
            .tokens
            .unwrap_or_default();
    }

    /// Logs another device of the user (or this one) out.
    pub async fn log_out(&self, device_id: &str) {
        let device_id = device_id.to_owned();
        let request = LogOutDeviceRequest { device_id };
        let answer = self.accounts().log_out_device(request).await;
        answer.expect("log out");
    }

    fn accounts(&self) -> AccountServiceClient<InterceptedService<Channel, Bearer>> {
        AccountServiceClient::with_interceptor(self.channel.clone(), self.bearer())
    }

    /// The token, to be put on calls.
    pub fn bearer(&self) -> Bearer {
        Bearer(self.tokens.access_token.clone())
    }

    /// The connection that its calls share.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Uses a new connection from now on: one to a server that went away breaks a call first.
    pub fn reconnect(&mut self) {
        self.channel = connect(&self.url);
    }

    /// Calls of messaging as this device.
    pub fn messaging(&self) -> Messaging {
        MessagingServiceClient::with_interceptor(self.channel.clone(), self.bearer())
    }

    /// The direct conversation with another user.
    pub fn with(&self, other: &Self) -> String {
        direct(&self.user_id, &other.user_id)
    }

    /// Sends one message as a call.
    pub async fn send(
        &self,
        conversation_id: &str,
        message_id: Uuid,
        text: &str,
    ) -> Result<wire::SendMessageResponse, Status> {
        let request = wire::SendMessageRequest {
            conversation_id: conversation_id.to_owned(),
            message_id: message_id.to_string(),
            text: text.to_owned(),
            ..wire::SendMessageRequest::default()
        };
        let answer = self.messaging().send_message(request).await?;
        Ok(answer.into_inner())
    }

    /// All events of a conversation, page by page, as a client reads them.
    pub async fn history(&self, conversation_id: &str, min_seq: u64) -> Vec<wire::Event> {
        let mut events = Vec::new();
        let mut after_seq = 0;
        loop {
            let range = wire::EventRange {
                conversation_id: conversation_id.to_owned(),
                after_seq,
                min_seq,
                page_size: 200,
                ..wire::EventRange::default()
            };
            let request = wire::ListEventsRequest {
                ranges: vec![range],
            };
            let answer = self.messaging().list_events(request).await;
            let mut pages = answer.expect("list events").into_inner().pages;
            let page = pages.pop().expect("one page for one range");
            after_seq = page.to_seq;
            events.extend(page.events);
            if !page.more {
                return events;
            }
        }
    }

    /// The conversation as this user sees it.
    pub async fn conversation(&self, conversation_id: &str) -> wire::Conversation {
        let request = wire::GetConversationRequest {
            conversation_id: conversation_id.to_owned(),
        };
        let answer = self.messaging().get_conversation(request).await;
        let answer = answer.expect("get conversation").into_inner();
        answer.conversation.expect("a conversation")
    }

    /// Unread messages, and the inbox version that the user is at.
    pub async fn unread_total(&self) -> wire::GetUnreadTotalResponse {
        let request = wire::GetUnreadTotalRequest::default();
        let answer = self.messaging().get_unread_total(request).await;
        answer.expect("get unread total").into_inner()
    }

    /// A call that says nothing of its outcome.
    pub async fn unread_total_if_allowed(&self) {
        let request = wire::GetUnreadTotalRequest::default();
        let _ = self.messaging().get_unread_total(request).await;
    }

    /// What a resume brings: all changes after a version, and how many calls that took.
    pub async fn changes(&self, after_version: u64) -> (Vec<wire::Conversation>, u64, usize) {
        let (mut conversations, mut version, mut calls) = (Vec::new(), after_version, 0);
        loop {
            let request = wire::ListChangesRequest {
                after_version: version,
                page_size: 500,
                min_inbox_version: 0,
            };
            let answer = self.messaging().list_changes(request).await;
            let answer = answer.expect("list changes").into_inner();
            calls += 1;
            conversations.extend(answer.conversations);
            version = answer.version;
            if !answer.more {
                return (conversations, version, calls);
            }
        }
    }

    /// Whether another user is online, and when he was last.
    pub async fn presence_of(&self, other: &Self) -> Presence {
        let client = PresenceServiceClient::with_interceptor(self.channel.clone(), self.bearer());
        let request = GetPresenceRequest {
            user_ids: vec![other.user_id.clone()],
        };
        let answer = { client }.get_presence(request).await;
        let mut presences = answer.expect("get presence").into_inner().presences;
        presences.pop().expect("one answer for one user")
    }
}
