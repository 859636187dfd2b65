//! The operations of a script.

use std::sync::Arc;

use messenger_client::{
    Client, ErrorKind, ErrorReason,
    model::{EventRange, Order, Watermark},
};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::{cast::GroupOp, changes::Office, device::GroupDevice};
use crate::{
    history::{
        Keeps, Mark, No, Send, Way,
        groups::{GroupList, GroupRead, GroupRecord},
    },
    recorder::hash,
    traffic::{Recent, reason},
};

/// Conversations of a page of the list: fewer than there are groups, so that pages end.
const LIST_PAGE: i32 = 2;

impl GroupDevice {
    /// Does one thing. What waits for a server goes on in the background.
    pub(super) async fn perform(self: &Arc<Self>, op: GroupOp) {
        match op {
            GroupOp::Send { group, texts } => self.send(group, &texts).await,
            GroupOp::MarkRead {
                group,
                as_call: false,
            } => self.mark_read(group).await,
            GroupOp::Restart { killed, away } => self.restart(killed, away).await,
            op => self.call(op).await,
        }
    }

    async fn call(self: &Arc<Self>, op: GroupOp) {
        let Some(client) = self.client().await else {
            return;
        };
        // A device whose calls do not come back makes no more of them.
        let Ok(permit) = self.calls.clone().try_acquire_owned() else {
            return;
        };
        let device = self.clone();
        self.stage.calls.spawn(async move {
            let _permit: OwnedSemaphorePermit = permit;
            device.carry_out(&client, op).await;
        });
    }

    async fn carry_out(&self, client: &Client, op: GroupOp) {
        match op {
            GroupOp::SendCall { group, text } => {
                let text = self.stage.text(text);
                let id = Uuid::now_v7();
                let send = self.intend((group, id, &text), 0, Way::Call, None);
                self.say(client, send, (group, id), &text, Way::Call).await;
            }
            GroupOp::Again { pick } => {
                let recent = self.user.knowledge.lock().pick(pick);
                let Some(recent) = recent else { return };
                self.stage.recorder.add_group(GroupRecord::Again {
                    t: self.stage.recorder.now(),
                    send: recent.send,
                });
                let name = (recent.conversation, recent.id);
                self.say(client, recent.send, name, &recent.text, Way::Retry)
                    .await;
            }
            GroupOp::Change {
                group,
                asked,
                again,
            } => {
                let office = Office::new(&self.stage, self.role, client.clone());
                office.ask(group, asked, again).await;
            }
            GroupOp::MarkRead { group, .. } => self.mark_read_call(client, group).await,
            GroupOp::Read {
                group,
                newest_first,
                page_size,
                from,
                bounded,
            } => {
                let min_seq = self.held(group);
                let read = GroupRead {
                    t: (self.stage.recorder.now(), 0),
                    user: self.role.user,
                    group,
                    after: from.map_or(0, |permille| min_seq * u64::from(permille) / 1_000),
                    before: if bounded { min_seq + 1 } else { 0 },
                    min_seq,
                    newest_first,
                    covers: (0, 0),
                    head: 0,
                    more: false,
                    events: Vec::new(),
                };
                self.read(client, read, page_size).await;
            }
            GroupOp::List => {
                let min_version = self.user.knowledge.lock().version;
                if let Some(list) = self.list(client, min_version, false).await {
                    self.stage.recorder.add_group(GroupRecord::List(list));
                }
            }
            GroupOp::Send { .. } | GroupOp::Restart { .. } => {}
        }
    }

    pub(super) async fn client(&self) -> Option<Client> {
        let app = self.app.read().await;
        app.as_ref().map(|app| app.client().clone())
    }

    fn held(&self, group: No) -> u64 {
        let knowledge = self.user.knowledge.lock();
        knowledge.held.get(&group).copied().unwrap_or_default()
    }

    // --- sends -------------------------------------------------------------------------------------

    async fn send(self: &Arc<Self>, group: No, texts: &[u32]) {
        let app = self.app.read().await;
        let Some(app) = app.as_ref() else { return };
        let order = match self.role.keeps {
            Keeps::Cache => u64::from(self.role.number) << 32,
            _ => u64::from(self.role.number) << 32 | u64::from(app.number),
        };
        let mut outgoing = Vec::new();
        for text in texts {
            let text = self.stage.text(*text);
            let t = self.stage.recorder.now();
            let conversation_id = self.stage.conversation_id(group);
            let message = match app.session.send(conversation_id, &*text).await {
                Ok(message) => message,
                Err(error) => {
                    self.stage.failed(self.role.number, "send", &error);
                    break;
                }
            };
            let Ok(id) = Uuid::parse_str(message.message_id()) else {
                continue;
            };
            let send = self.intended(t, (group, id, &text), app.number, Way::Session, Some(order));
            self.is_pending(id, send);
            outgoing.push((send, id, message));
        }
        self.wait_for(outgoing);
    }

    fn intend(
        &self,
        message: (No, Uuid, &Arc<str>),
        app: u32,
        way: Way,
        order: Option<u64>,
    ) -> u32 {
        self.intended(self.stage.recorder.now(), message, app, way, order)
    }

    /// Takes down a message that is sent.
    fn intended(
        &self,
        t: u64,
        (group, id, text): (No, Uuid, &Arc<str>),
        app: u32,
        way: Way,
        order: Option<u64>,
    ) -> u32 {
        let send = self.stage.recorder.next_send();
        self.stage.recorder.add_group(GroupRecord::Send(Send {
            send,
            t,
            device: self.role.number,
            app,
            conversation: group,
            id,
            hash: hash(text),
            way,
            group: order,
        }));
        self.user.knowledge.lock().has_sent(Recent {
            send,
            conversation: group,
            id,
            text: text.clone(),
        });
        send
    }

    async fn say(&self, client: &Client, send: u32, name: (No, Uuid), text: &str, way: Way) {
        let (group, id) = name;
        let conversation_id = self.stage.conversation_id(group);
        let answer = client
            .send_message(conversation_id, &id.to_string(), text)
            .await;
        let t = self.stage.recorder.now();
        let error = match answer {
            Ok(receipt) => {
                let at = Mark(receipt.seq, receipt.message_index);
                self.stage.recorder.add_group(GroupRecord::Ack {
                    t,
                    send,
                    at,
                    duplicate: receipt.duplicate,
                    way,
                });
                self.user.knowledge.lock().holds(group, at.0);
                return;
            }
            Err(error) => error,
        };
        self.stage.failed(self.role.number, "send_to_group", &error);
        let is_refusal = matches!(
            error.reason(),
            ErrorReason::NotAMember | ErrorReason::AdminsOnly
        );
        let reason = reason(&error);
        self.stage.recorder.add_group(match (way, is_refusal) {
            // The fate of what is sent again is told by those who sent it first.
            (Way::Retry, _) => return,
            (_, true) => GroupRecord::Refused { t, send, reason },
            _ => GroupRecord::Unknown { t, send, reason },
        });
    }

    // --- reads -------------------------------------------------------------------------------------

    async fn read(&self, client: &Client, mut read: GroupRead, page_size: i32) {
        let order = match read.newest_first {
            true => Order::NewestFirst,
            false => Order::OldestFirst,
        };
        let range = EventRange {
            conversation_id: self.stage.conversation_id(read.group).to_owned(),
            after_seq: read.after,
            before_seq: read.before,
            min_seq: read.min_seq,
            page_size,
            order: order.into(),
        };
        let pages = client.list_events(vec![range]).await;
        read.t.1 = self.stage.recorder.now();
        let page = match pages.map(|pages| pages.into_iter().next()) {
            Ok(Some(page)) => page,
            Ok(None) => return,
            Err(error) => {
                self.stage
                    .failed(self.role.number, "list_group_events", &error);
                if error.kind() == ErrorKind::Rejected {
                    self.stage.recorder.add_group(GroupRecord::ReadRefused {
                        t: read.t,
                        user: read.user,
                        group: read.group,
                        min_seq: read.min_seq,
                        reason: reason(&error),
                    });
                }
                return;
            }
        };
        read.covers = (page.from_seq, page.to_seq);
        read.head = page.last_seq;
        read.more = page.more;
        let events = page.events.into_iter();
        let numbers = events.filter_map(|event| self.stage.recorder.group_event(event));
        read.events = numbers.collect();
        self.user.knowledge.lock().holds(read.group, read.head);
        self.stage.recorder.add_group(GroupRecord::Read(read));
    }

    /// The whole list.
    pub(super) async fn list(
        &self,
        client: &Client,
        min_version: u64,
        is_final: bool,
    ) -> Option<GroupList> {
        let began = self.stage.recorder.now();
        let (mut rows, mut token, mut first) = (Vec::new(), String::new(), None);
        loop {
            let page = client
                .list_conversations(LIST_PAGE, &token, min_version)
                .await;
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    self.stage.failed(self.role.number, "list_groups", &error);
                    return None;
                }
            };
            first.get_or_insert((page.inbox_version, page.unread_total));
            let shown = page.conversations.iter();
            rows.extend(shown.map(|row| self.stage.recorder.group_row(row)));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        let (version, unread_total) = first.unwrap_or_default();
        self.user.knowledge.lock().is_at(version);
        Some(GroupList {
            t: (began, self.stage.recorder.now()),
            user: self.role.user,
            min_version,
            version,
            unread_total,
            rows,
            is_final,
        })
    }

    // --- marks -------------------------------------------------------------------------------------

    /// Through the session.
    pub(super) async fn mark_read(&self, group: No) {
        let Some(up_to) = self.newest_shown(group) else {
            return;
        };
        let app = self.app.read().await;
        let Some(app) = app.as_ref() else { return };
        let began = self.stage.recorder.now();
        let id = self.stage.conversation_id(group);
        let told = app.session.mark_read(id, watermark(up_to)).await;
        if let Err(error) = &told {
            self.stage
                .failed(self.role.number, "mark_group_read", error);
        }
        self.marked(
            began,
            app.number,
            (group, up_to),
            Way::Session,
            told.is_ok(),
        );
    }

    /// As a call.
    pub(super) async fn mark_read_call(&self, client: &Client, group: No) {
        let Some(up_to) = self.newest_shown(group) else {
            return;
        };
        let began = self.stage.recorder.now();
        let id = self.stage.conversation_id(group);
        let told = client.mark_read(id, watermark(up_to)).await;
        if let Err(error) = &told {
            self.stage
                .failed(self.role.number, "mark_group_read", error);
        }
        self.marked(began, 0, (group, up_to), Way::Call, told.is_ok());
    }

    fn newest_shown(&self, group: No) -> Option<Mark> {
        self.user.knowledge.lock().shown.get(&group).copied()
    }

    fn marked(&self, began: u64, app: u32, (group, up_to): (No, Mark), way: Way, told: bool) {
        self.stage.recorder.add_group(GroupRecord::MarkRead {
            t: (began, self.stage.recorder.now()),
            device: self.role.number,
            app,
            group,
            up_to,
            way,
            told,
        });
    }
}

fn watermark(mark: Mark) -> Watermark {
    Watermark {
        seq: mark.0,
        message_index: mark.1,
    }
}
