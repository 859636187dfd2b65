//! The operations of a script.

use std::sync::Arc;

use messenger_client::{
    Client, Message,
    model::{EventRange, MessageRange, Order, Watermark},
};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::{Device, Recent, is_refusal, reason};
use crate::{
    history::{Keeps, List, Mark, No, Page, Read, Record, Send, Way},
    plan::{Bad, Op, ReadOp},
    recorder::hash,
    texts::TEXT_CHARS_MAX,
};

/// Conversations of a page of the list.
const LIST_PAGE: i32 = 100;

impl Device {
    /// Does one thing. What waits for a server goes on in the background.
    pub(super) async fn perform(self: &Arc<Self>, op: Op) {
        match op {
            Op::Send {
                conversation,
                texts,
            } => self.send(conversation, &texts).await,
            Op::MarkRead {
                conversation,
                as_call: false,
            } => self.mark_read(conversation).await,
            Op::Restart { killed, away } => self.restart(killed, away).await,
            op => self.call(op).await,
        }
    }

    async fn call(self: &Arc<Self>, op: Op) {
        let client = {
            let app = self.app.read().await;
            let Some(app) = app.as_ref() else { return };
            app.client().clone()
        };
        // A device whose calls do not come back makes no more of them.
        let Ok(permit) = self.calls.clone().try_acquire_owned() else {
            return;
        };
        let device = self.clone();
        let call = async move {
            let _permit: OwnedSemaphorePermit = permit;
            match op {
                Op::SendCall { conversation, text } => {
                    let text = device.stage.text(text);
                    device.send_call(&client, conversation, &text).await;
                }
                Op::Again { pick } => device.send_again(&client, pick).await,
                Op::Status { pick } => device.status(&client, pick).await,
                Op::Refused { conversation, how } => {
                    device.send_refused(&client, conversation, how).await;
                }
                Op::MarkRead { conversation, .. } => {
                    device.mark_read_call(&client, conversation).await;
                }
                Op::Read(read) => device.read(&client, read).await,
                Op::List => {
                    let min_version = device.user.knowledge.lock().version;
                    let _ = device.list(&client, min_version, false).await;
                }
                Op::UnreadTotal => {
                    let min_version = device.user.knowledge.lock().version;
                    let _ = device.unread_total(&client, min_version, false).await;
                }
                Op::Send { .. } | Op::Restart { .. } => {}
            }
        };
        self.stage.calls.spawn(call);
    }

    // --- sends -------------------------------------------------------------------------------------

    async fn send(self: &Arc<Self>, conversation: No, texts: &[u32]) {
        let app = self.app.read().await;
        let Some(app) = app.as_ref() else { return };
        let mut outgoing = Vec::new();
        for text in texts {
            let text = self.stage.text(*text);
            let t = self.stage.recorder.now();
            let id = self.stage.conversation_id(conversation);
            let queued = app.session.send(id, &*text).await;
            let message = match queued {
                Ok(message) => message,
                Err(error) => {
                    self.stage.failed(self.role.number, "send", &error);
                    break;
                }
            };
            let Ok(id) = Uuid::parse_str(message.message_id()) else {
                continue;
            };
            let send = self.stage.recorder.next_send();
            let group = match self.role.keeps {
                Keeps::Cache => u64::from(self.role.number) << 32,
                _ => u64::from(self.role.number) << 32 | u64::from(app.number),
            };
            self.stage.recorder.add(Record::Send(Send {
                send,
                t,
                device: self.role.number,
                app: app.number,
                conversation,
                id,
                hash: hash(&text),
                way: Way::Session,
                group: Some(group),
            }));
            self.user.knowledge.lock().has_sent(Recent {
                send,
                conversation,
                id,
                text,
            });
            self.is_pending(id, send);
            outgoing.push((send, id, message));
        }
        self.wait_for(outgoing);
    }

    /// Takes down a message that will be sent as a call.
    fn intend(&self, conversation: No, id: Uuid, text: &str) -> u32 {
        let send = self.stage.recorder.next_send();
        self.stage.recorder.add(Record::Send(Send {
            send,
            t: self.stage.recorder.now(),
            device: self.role.number,
            app: 0,
            conversation,
            id,
            hash: hash(text),
            way: Way::Call,
            group: None,
        }));
        send
    }

    async fn send_call(&self, client: &Client, conversation: No, text: &Arc<str>) {
        let id = Uuid::now_v7();
        let send = self.intend(conversation, id, text);
        self.user.knowledge.lock().has_sent(Recent {
            send,
            conversation,
            id,
            text: text.clone(),
        });
        self.say(client, send, (conversation, id), text, Way::Call)
            .await;
    }

    async fn send_again(&self, client: &Client, pick: u32) {
        let recent = self.user.knowledge.lock().pick(pick);
        let Some(recent) = recent else { return };
        self.stage.recorder.add(Record::Again {
            t: self.stage.recorder.now(),
            send: recent.send,
            device: self.role.number,
        });
        let name = (recent.conversation, recent.id);
        self.say(client, recent.send, name, &recent.text, Way::Retry)
            .await;
    }

    async fn send_refused(&self, client: &Client, conversation: No, how: Bad) {
        let text = match how {
            Bad::Empty => String::new(),
            Bad::TooLong => "x".repeat(TEXT_CHARS_MAX + 1),
            Bad::Nul => "a\0b".to_owned(),
            Bad::OfOthers => "let me in".to_owned(),
        };
        let id = Uuid::now_v7();
        let send = self.intend(conversation, id, &text);
        self.say(client, send, (conversation, id), &text, Way::Call)
            .await;
    }

    async fn say(&self, client: &Client, send: u32, name: (No, Uuid), text: &str, way: Way) {
        let (conversation, id) = name;
        let conversation_id = self.stage.conversation_id(conversation);
        let answer = client
            .send_message(conversation_id, &id.to_string(), text)
            .await;
        let t = self.stage.recorder.now();
        let error = match answer {
            Ok(receipt) => {
                let at = Mark(receipt.seq, receipt.message_index);
                self.stage.recorder.add(Record::Ack {
                    t,
                    send,
                    at,
                    duplicate: receipt.duplicate,
                    way,
                });
                self.user.knowledge.lock().holds(conversation, at.0);
                return;
            }
            Err(error) => error,
        };
        self.stage.failed(self.role.number, "send_message", &error);
        let reason = reason(&error);
        self.stage.recorder.add(match (way, is_refusal(&error)) {
            (Way::Call, true) => Record::Refused { t, send, reason },
            // The fate of what is sent again is told by those who sent it first.
            (Way::Retry, _) => return,
            _ => Record::Unknown { t, send, reason },
        });
    }

    // --- reads -------------------------------------------------------------------------------------

    async fn status(&self, client: &Client, pick: u32) {
        let recent = self.user.knowledge.lock().pick(pick);
        let Some(recent) = recent else { return };
        let began = self.stage.recorder.now();
        let conversation_id = self.stage.conversation_id(recent.conversation);
        let status = client
            .send_status(conversation_id, &recent.id.to_string())
            .await;
        let t = (began, self.stage.recorder.now());
        let found = match status {
            Ok(messenger_client::SendStatus::Accepted(receipt)) => {
                Ok(Mark(receipt.seq, receipt.message_index))
            }
            Ok(messenger_client::SendStatus::NotAcceptedAsOf(seq)) => Err(seq),
            Err(error) => return self.stage.failed(self.role.number, "send_status", &error),
        };
        self.stage.recorder.add(Record::Status {
            t,
            send: recent.send,
            found,
        });
    }

    async fn read(&self, client: &Client, op: ReadOp) {
        let (min_seq, shown) = {
            let knowledge = self.user.knowledge.lock();
            let held = knowledge.held.get(&op.conversation);
            let shown = knowledge.shown.get(&op.conversation);
            (
                held.copied().unwrap_or_default(),
                shown.copied().unwrap_or_default(),
            )
        };
        let top = if op.messages { shown.1 } else { min_seq };
        let mut read = Read {
            t: (self.stage.recorder.now(), 0),
            device: self.role.number,
            conversation: op.conversation,
            messages: op.messages,
            after: op
                .from
                .map_or(0, |permille| top * u64::from(permille) / 1_000),
            before: 0,
            min_seq,
            as_of: 0,
            newest_first: op.newest_first,
            page: Page {
                covers: (0, 0),
                head: 0,
                more: false,
                contents: Vec::new(),
            },
        };
        match (op.bounded, op.messages) {
            (true, true) => read.as_of = min_seq,
            (true, false) => read.before = min_seq + 1,
            _ => {}
        }
        let page = match op.messages {
            true => self.messages(client, &read, op.page_size).await,
            false => self.events(client, &read, op.page_size).await,
        };
        let call = if op.messages {
            "list_messages"
        } else {
            "list_events"
        };
        match page {
            Ok(page) => {
                read.t.1 = self.stage.recorder.now();
                self.user.knowledge.lock().holds(op.conversation, page.head);
                read.page = page;
                self.stage.recorder.add(Record::Read(read));
            }
            Err(error) => self.stage.failed(self.role.number, call, &error),
        }
    }

    async fn events(
        &self,
        client: &Client,
        read: &Read,
        page_size: i32,
    ) -> messenger_client::Result<Page> {
        let range = EventRange {
            conversation_id: self.stage.conversation_id(read.conversation).to_owned(),
            after_seq: read.after,
            before_seq: read.before,
            min_seq: read.min_seq,
            page_size,
            order: order(read.newest_first).into(),
        };
        let pages = client.list_events(vec![range]).await?;
        let page = one(pages)?;
        let messages = page.events.into_iter().filter_map(Message::from_event);
        Ok(Page {
            covers: (page.from_seq, page.to_seq),
            head: page.last_seq,
            more: page.more,
            contents: messages
                .map(|message| self.stage.recorder.content(&message))
                .collect(),
        })
    }

    async fn messages(
        &self,
        client: &Client,
        read: &Read,
        page_size: i32,
    ) -> messenger_client::Result<Page> {
        let conversation_id = self.stage.conversation_id(read.conversation);
        let range = MessageRange {
            conversation_id: conversation_id.to_owned(),
            after_message_index: read.after,
            before_message_index: read.before,
            as_of_seq: read.as_of,
            min_seq: read.min_seq,
            page_size,
            order: order(read.newest_first).into(),
        };
        let pages = client.list_messages(vec![range]).await?;
        let page = one(pages)?;
        let messages = page.messages.into_iter();
        Ok(Page {
            covers: (page.from_message_index, page.to_message_index),
            head: page.as_of_seq,
            more: page.more,
            contents: messages
                .map(|shown| {
                    self.stage
                        .recorder
                        .content(&Message::from_shown(conversation_id, shown))
                })
                .collect(),
        })
    }

    /// The whole list.
    pub(crate) async fn list(
        &self,
        client: &Client,
        min_version: u64,
        is_final: bool,
    ) -> Option<List> {
        let began = self.stage.recorder.now();
        let (mut rows, mut token, mut first) = (Vec::new(), String::new(), None);
        loop {
            let page = client
                .list_conversations(LIST_PAGE, &token, min_version)
                .await;
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    self.stage
                        .failed(self.role.number, "list_conversations", &error);
                    return None;
                }
            };
            first.get_or_insert((page.inbox_version, page.unread_total));
            rows.extend(
                page.conversations
                    .iter()
                    .map(|row| self.stage.recorder.row(row)),
            );
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        let (version, unread_total) = first.unwrap_or_default();
        let list = List {
            t: (began, self.stage.recorder.now()),
            user: self.user.number,
            min_version,
            version,
            unread_total,
            rows,
            is_final,
        };
        self.user.knowledge.lock().is_at(version);
        if !is_final {
            self.stage.recorder.add(Record::List(list.clone()));
        }
        Some(list)
    }

    pub(crate) async fn unread_total(&self, client: &Client, min_version: u64, is_final: bool) {
        let began = self.stage.recorder.now();
        // The SDK does not tell the version that the answer is of.
        match client.unread_total(min_version).await {
            Ok(total) => self.stage.recorder.add(Record::UnreadTotal {
                t: (began, self.stage.recorder.now()),
                user: self.user.number,
                total,
                is_final,
            }),
            Err(error) => self.stage.failed(self.role.number, "unread_total", &error),
        }
    }

    // --- marks -------------------------------------------------------------------------------------

    /// Through the session.
    pub(crate) async fn mark_read(&self, conversation: No) {
        let Some(up_to) = self.newest_shown(conversation) else {
            return;
        };
        let app = self.app.read().await;
        let Some(app) = app.as_ref() else { return };
        let began = self.stage.recorder.now();
        let id = self.stage.conversation_id(conversation);
        let told = app.session.mark_read(id, watermark(up_to)).await;
        if let Err(error) = &told {
            self.stage.failed(self.role.number, "mark_read", error);
        }
        let (way, told) = (Way::Session, told.is_ok());
        self.marked(began, app.number, conversation, up_to, way, told);
    }

    /// As a call.
    pub(crate) async fn mark_read_call(&self, client: &Client, conversation: No) {
        let Some(up_to) = self.newest_shown(conversation) else {
            return;
        };
        let began = self.stage.recorder.now();
        let id = self.stage.conversation_id(conversation);
        let told = client.mark_read(id, watermark(up_to)).await;
        if let Err(error) = &told {
            self.stage.failed(self.role.number, "mark_read", error);
        }
        self.marked(began, 0, conversation, up_to, Way::Call, told.is_ok());
    }

    fn newest_shown(&self, conversation: No) -> Option<Mark> {
        self.user.knowledge.lock().shown.get(&conversation).copied()
    }

    fn marked(&self, began: u64, app: u32, conversation: No, up_to: Mark, way: Way, told: bool) {
        self.stage.recorder.add(Record::MarkRead {
            t: (began, self.stage.recorder.now()),
            device: self.role.number,
            app,
            conversation,
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

fn order(newest_first: bool) -> Order {
    match newest_first {
        true => Order::NewestFirst,
        false => Order::OldestFirst,
    }
}

fn one<T>(pages: Vec<T>) -> messenger_client::Result<T> {
    pages
        .into_iter()
        .next()
        .ok_or_else(|| messenger_client::Error::Protocol("an answer without a page".to_owned()))
}
