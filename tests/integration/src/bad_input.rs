//! What no honest client says. Each has a named error or a limit; nothing changes, and nobody else
//! notices.

use harness::{Device, Session, TestServer, TestServerBuilder, eventually};
use uuid::Uuid;

mod calls;
mod fields;
mod floods;
mod frames;
mod paging;
mod silence;

/// Messages that are there before.
const BEFORE: u64 = 3;

/// Two users with a conversation, of which one misbehaves, and two others beside them.
struct Scene {
    server: TestServer,
    ada: Device,
    grace: Device,
    conversation: String,
    neighbours: (Session, Session),
    neighbours_conversation: String,
    before: State,
}

/// What must not change.
#[derive(Debug, PartialEq)]
struct State {
    history: Vec<proto::messaging::v1::Event>,
    ada: (Vec<proto::messaging::v1::Conversation>, u64),
    grace: (Vec<proto::messaging::v1::Conversation>, u64),
}

impl Scene {
    async fn start() -> Self {
        Self::of(TestServer::builder()).await
    }

    async fn of(builder: TestServerBuilder) -> Self {
        let server = builder.start().await;
        let (ada, grace) = (server.user("ada").await, server.user("grace").await);
        let (linus, edsger) = (server.user("linus").await, server.user("edsger").await);
        let conversation = ada.with(&grace);
        for n in 1..=BEFORE {
            let sent = grace
                .send(&conversation, Uuid::now_v7(), &format!("{n}"))
                .await;
            assert_eq!(sent.unwrap().seq, n);
        }
        // The lists of both are at rest once both have the last message: nothing follows it.
        for (user, unread) in [(&ada, BEFORE), (&grace, 0)] {
            eventually("the rows of all messages", async || {
                let row = user.conversation(&conversation).await;
                (row.last_seq == BEFORE && row.unread_count == unread).then_some(())
            })
            .await;
        }
        Self {
            before: State::read(&ada, &grace, &conversation).await,
            neighbours_conversation: linus.with(&edsger),
            neighbours: (linus.session().await, edsger.session().await),
            server,
            ada,
            grace,
            conversation,
        }
    }

    /// Two others can talk.
    async fn neighbours_go_on(&mut self) {
        let (linus, edsger) = &mut self.neighbours;
        let ack = linus
            .send(&self.neighbours_conversation, "undisturbed")
            .await;
        let event = edsger.event(&self.neighbours_conversation).await;
        assert_eq!((event.seq, ack.duplicate), (ack.seq, false));
    }

    /// Nothing has changed, and everything goes on for everybody.
    async fn ends_unharmed(mut self) {
        let now = State::read(&self.ada, &self.grace, &self.conversation).await;
        assert_eq!(now, self.before);
        self.neighbours_go_on().await;
        // What had been appended would be before this: events are numbered without gaps.
        let next = self
            .ada
            .send(&self.conversation, Uuid::now_v7(), "next")
            .await;
        assert_eq!(next.unwrap().seq, BEFORE + 1);
        let history = self.grace.history(&self.conversation, BEFORE + 1).await;
        assert_eq!(history[..BEFORE as usize], self.before.history);
        eventually("one more message is counted", async || {
            let row = self.grace.conversation(&self.conversation).await;
            (row.last_seq == BEFORE + 1 && row.unread_count == 1).then_some(())
        })
        .await;
        let (conversations, ..) = self.grace.changes(0).await;
        assert_eq!(conversations.len(), 1, "{conversations:?}");
    }
}

impl State {
    async fn read(ada: &Device, grace: &Device, conversation: &str) -> Self {
        let changes = async |user: &Device| {
            let (conversations, version, _) = user.changes(0).await;
            (conversations, version)
        };
        Self {
            history: ada.history(conversation, BEFORE).await,
            ada: changes(ada).await,
            grace: changes(grace).await,
        }
    }
}
