use std::collections::HashSet;

use proptest::prelude::*;
use tonic::Code;

use super::*;
use crate::error::ServerError;

const CONVERSATIONS: usize = 3;
const IN_FLIGHT_MAX: usize = 4;

fn error(reason: ErrorReason) -> Error {
    Error::Server(ServerError {
        code: Code::Unavailable,
        reason,
        message: String::new(),
        field: String::new(),
        retry_after: None,
    })
}

/// What the server makes of the next frame of a conversation.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    Accept,
    Reject,
    RateLimit,
    Unknown { accepted: bool },
}

#[derive(Debug, Clone)]
enum Step {
    Queue(usize),
    Send,
    Answer(usize, Verdict),
    Break { read: usize },
    Connect,
    Wait,
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        6 => Just(Verdict::Accept),
        1 => Just(Verdict::Reject),
        1 => Just(Verdict::RateLimit),
        1 => any::<bool>().prop_map(|accepted| Verdict::Unknown { accepted }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..CONVERSATIONS).prop_map(Step::Queue),
        8 => Just(Step::Send),
        6 => (0..CONVERSATIONS, verdict()).prop_map(|(c, v)| Step::Answer(c, v)),
        1 => (0..4_usize).prop_map(|read| Step::Break { read }),
        2 => Just(Step::Connect),
        2 => Just(Step::Wait),
    ]
}

/// A server that keeps the order of a session: after one was not accepted for now, those behind it in
/// the conversation are refused until it has been tried again.
#[derive(Default)]
struct Server {
    unread: Vec<Outbound>,
    accepted: HashMap<String, Vec<String>>,
    refused: HashSet<String>,
    blocked_by: HashMap<String, String>,
}

impl Server {
    /// Reads the first frame of the conversation that is not read yet.
    fn read(&mut self, conversation_id: &str, verdict: Verdict) -> Option<(u64, Option<Error>)> {
        let at = self
            .unread
            .iter()
            .position(|frame| frame.conversation_id == conversation_id)?;
        let frame = self.unread.remove(at);
        let accepted = self.accepted.entry(conversation_id.to_owned()).or_default();
        let blocked_by = self.blocked_by.get(conversation_id);
        if blocked_by.is_some_and(|id| *id != frame.message_id) {
            return Some((
                frame.request_id,
                Some(error(ErrorReason::PrecedingSendUnknown)),
            ));
        }
        let known = accepted.contains(&frame.message_id);
        let accept = |accepted: &mut Vec<String>| {
            if !known {
                accepted.push(frame.message_id.clone());
            }
        };
        let answer = match verdict {
            Verdict::Accept => {
                accept(accepted);
                None
            }
            // What was accepted before is answered with its place, whatever else holds.
            Verdict::Reject if known => None,
            Verdict::Reject => {
                self.refused.insert(frame.message_id.clone());
                Some(error(ErrorReason::NotAMember))
            }
            Verdict::RateLimit => Some(error(ErrorReason::RateLimited)),
            Verdict::Unknown { accepted: stored } => {
                if stored {
                    accept(accepted);
                }
                Some(error(ErrorReason::SendUnknown))
            }
        };
        match verdict {
            Verdict::RateLimit | Verdict::Unknown { .. } => self
                .blocked_by
                .insert(conversation_id.to_owned(), frame.message_id),
            _ => self.blocked_by.remove(conversation_id),
        };
        Some((frame.request_id, answer))
    }
}

struct World {
    outbox: Outbox<()>,
    server: Server,
    now: Instant,
    connected: bool,
    queued: HashMap<String, Vec<String>>,
    resolved: Vec<(String, bool)>,
    /// Messages in flight, and conversations that must be careful.
    in_flight: Vec<(String, String)>,
    careful: HashSet<String>,
}

impl World {
    fn new() -> Self {
        Self {
            outbox: Outbox::new(1_000),
            server: Server::default(),
            now: Instant::now(),
            connected: false,
            queued: HashMap::new(),
            resolved: Vec::new(),
            in_flight: Vec::new(),
            careful: HashSet::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Queue(conversation) => {
                let id = conversation.to_string();
                let messages = self.queued.entry(id.clone()).or_default();
                let message = format!("{id}-{}", messages.len());
                messages.push(message.clone());
                self.outbox.queue(&id, message, String::new(), ());
            }
            Step::Send => self.send(),
            Step::Answer(conversation, verdict) => self.answer(&conversation.to_string(), verdict),
            Step::Break { read } => {
                // The old server still reads some of what was on its way.
                for _ in 0..read {
                    if let Some(frame) = self.server.unread.first() {
                        let id = frame.conversation_id.clone();
                        self.server.read(&id, Verdict::Accept);
                    }
                }
                self.server.unread.clear();
                self.server.blocked_by.clear();
                self.careful
                    .extend(self.in_flight.drain(..).map(|(id, _)| id));
                self.outbox.disconnected();
                self.connected = false;
            }
            Step::Connect if !self.connected => {
                self.outbox.connected(IN_FLIGHT_MAX);
                self.connected = true;
            }
            Step::Connect => {}
            Step::Wait => {
                if let Some(at) = self.outbox.wakes_at() {
                    self.now = self.now.max(at);
                }
            }
        }
    }

    fn send(&mut self) {
        let Some(frame) = self.outbox.next(self.now) else {
            return;
        };
        assert!(self.connected);
        let id = &frame.conversation_id;
        let before = self.queued[id]
            .iter()
            .take_while(|message| **message != frame.message_id);
        for message in before {
            let pair = (id.clone(), message.clone());
            let is_resolved = self.resolved.iter().any(|(m, _)| m == message);
            assert!(
                is_resolved || self.in_flight.contains(&pair),
                "{} overtakes {message}",
                frame.message_id
            );
        }
        let alone = self.in_flight.iter().all(|(other, _)| other != id);
        assert!(
            alone || !self.careful.contains(id),
            "not alone after an error"
        );
        self.in_flight.push((id.clone(), frame.message_id.clone()));
        assert!(self.in_flight.len() <= IN_FLIGHT_MAX);
        self.server.unread.push(frame);
    }

    fn answer(&mut self, conversation_id: &str, verdict: Verdict) {
        let first = self
            .server
            .unread
            .iter()
            .find(|frame| frame.conversation_id == conversation_id);
        let Some(message) = first.map(|frame| frame.message_id.clone()) else {
            return;
        };
        let Some((request_id, error)) = self.server.read(conversation_id, verdict) else {
            return;
        };
        self.in_flight.retain(|(_, other)| *other != message);
        match error {
            None => {
                let (id, entry) = self.outbox.acked(request_id).unwrap();
                assert_eq!(
                    (id.as_str(), &entry.message_id),
                    (conversation_id, &message)
                );
                self.resolved.push((message, true));
                if self.in_flight.iter().all(|(id, _)| id != conversation_id) {
                    self.careful.remove(conversation_id);
                }
                assert!(self.outbox.acked(request_id).is_none());
            }
            Some(error) => match self.outbox.refused(request_id, &error, self.now) {
                Refusal::ForGood(_, entry) => {
                    assert_eq!(entry.message_id, message);
                    self.resolved.push((message, false));
                    let is_open = |id: &str| self.outbox.lanes.contains_key(id);
                    self.careful.retain(|id| is_open(id));
                }
                Refusal::ForNow => {
                    self.careful.insert(conversation_id.to_owned());
                }
                Refusal::NotOurs => panic!("{request_id} was in flight"),
            },
        }
    }

    fn finish(&mut self) {
        self.step(Step::Connect);
        for _ in 0..100_000 {
            if self.outbox.entries().is_empty() {
                break;
            }
            self.step(Step::Wait);
            self.step(Step::Send);
            for conversation in 0..CONVERSATIONS {
                self.step(Step::Answer(conversation, Verdict::Accept));
            }
        }
        assert!(self.outbox.entries().is_empty(), "something was never sent");
        assert_eq!(self.outbox.in_flight(), 0);
        assert!(self.outbox.lanes.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_of_a_conversation_arrive_once_and_in_order(
        steps in prop::collection::vec(step(), 0..200)
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.finish();
        let mut seen = HashSet::new();
        for (message, accepted) in &world.resolved {
            prop_assert!(seen.insert(message), "{} was resolved twice", message);
            prop_assert_eq!(*accepted, !world.server.refused.contains(message));
        }
        for (id, messages) in &world.queued {
            let expected: Vec<_> = messages
                .iter()
                .filter(|message| !world.server.refused.contains(*message))
                .collect();
            let accepted: Vec<_> = world.server.accepted[id].iter().collect();
            prop_assert_eq!(expected, accepted);
        }
    }
}

#[test]
fn a_rate_limit_holds_all_sends_until_its_time() {
    let now = Instant::now();
    let mut outbox = Outbox::new(10);
    outbox.connected(8);
    outbox.queue("a", "1".to_owned(), String::new(), ());
    let first = outbox.next(now).unwrap();
    outbox.queue("b", "2".to_owned(), String::new(), ());
    let wait = Duration::from_secs(3);
    let Error::Server(mut limited) = error(ErrorReason::RateLimited) else {
        unreachable!()
    };
    limited.retry_after = Some(wait);
    let refusal = outbox.refused(first.request_id, &Error::Server(limited), now);
    assert!(matches!(refusal, Refusal::ForNow));
    assert_eq!(outbox.next(now + wait / 2), None);
    let wakes_at = outbox.wakes_at().unwrap();
    assert!(wakes_at >= now + wait);
    assert!(outbox.next(wakes_at).is_some());
}

#[test]
fn the_queue_is_bounded_and_tells_what_is_in_it_in_order() {
    let mut outbox = Outbox::new(3);
    for (id, message) in [("b", "1"), ("a", "2"), ("b", "3")] {
        assert!(outbox.has_room());
        outbox.queue(id, message.to_owned(), String::new(), ());
    }
    assert!(!outbox.has_room());
    let ids: Vec<_> = outbox
        .entries()
        .into_iter()
        .map(|(_, entry)| entry.message_id.clone())
        .collect();
    assert_eq!(ids, ["1", "2", "3"]);
}
