//! Single promises of the sequencer, each with the history that would break it.

use bytes::Bytes;
use event_log::Record;
use prost::Message;
use proto::log::v1::{MessagesRecord, verdict::Verdict};
use runtime::ids::MessageId;

use super::world::{World, user};
use crate::codec::{self, MessageBody, Origin, Send};

pub(super) fn accepted(world: &World, offset: u64) -> proto::log::v1::Accepted {
    match world.verdicts[&offset][0] {
        Verdict::Accepted(accepted) => accepted,
        Verdict::Rejected(reason) => panic!("rejected: {reason}"),
    }
}

#[test]
fn a_client_that_lies_about_the_order_of_its_ids_never_gets_a_second_event() {
    let mut world = World::new();
    let conversation = world.conversations[0];
    // The largest id first, so that every later one is below it; each twice, in every order.
    for id in [200, 3, 200, 1, 3, 2, 1, 200, 2] {
        world.send(conversation, user(1), id);
    }
    // The same ids of the other member are other messages.
    for id in [3, 200] {
        world.send(conversation, user(2), id);
    }
    world.settle();
    world.check();
    assert_eq!(world.store.events.len(), 6);
    assert!(accepted(&world, world.log[2].offset).duplicate);
    assert_eq!(accepted(&world, world.log[4].offset).seq, 2);
}

#[test]
fn a_retry_is_recognised_long_after_everything_was_forgotten() {
    let mut world = World::new();
    let [first, second, third] = world.conversations;
    world.send(first, user(1), 1);
    world.send(first, user(1), 2);
    world.settle();
    // The cache holds two conversations: the first one goes.
    for conversation in [second, third, second, third] {
        world.send(conversation, user(3), 1);
        world.settle();
    }
    world.send(first, user(1), 1);
    world.settle();
    world.check();
    let retry = accepted(&world, world.log.last().unwrap().offset);
    assert_eq!((retry.seq, retry.duplicate), (1, true));
}

#[test]
fn a_record_of_a_newer_schema_stops_the_partition_where_it_is() {
    let mut world = World::new();
    let newer = MessagesRecord {
        schema_version: codec::SCHEMA_VERSION + 1,
        conversation_id: world.conversations[0].as_bytes().to_vec(),
        record: None,
    };
    world.send(world.conversations[0], user(1), 1);
    world.append(newer.encode_to_vec().into());
    world.send(world.conversations[0], user(1), 2);
    let core = &mut world.nodes[0].core;
    core.ingest(&world.log[0]).unwrap();
    let stopped = core.ingest(&world.log[1]).unwrap_err();
    assert_eq!(
        (stopped.offset, stopped.version),
        (world.log[1].offset, codec::SCHEMA_VERSION + 1)
    );
    assert_eq!(core.next_offset(), world.log[1].offset, "it was skipped");
}

#[test]
fn a_malformed_record_is_a_counted_no_op() {
    let mut world = World::new();
    world.send(world.conversations[0], user(1), 1);
    for bytes in [&b""[..], b"\x08\x01", b"\xff\xff\xff"] {
        world.append(Bytes::from_static(bytes));
    }
    world.send(world.conversations[0], user(1), 2);
    world.settle();
    world.check();
    assert_eq!(world.nodes[0].core.malformed(), 3);
}

#[test]
fn a_cold_conversation_waits_alone() {
    let mut world = World::new();
    let [warm, cold, _] = world.conversations;
    world.send(warm, user(1), 1);
    world.settle();
    world.send(cold, user(1), 1);
    world.send(warm, user(1), 2);
    // The store never answers for the cold one; the warm one is acknowledged all the same.
    world.ingest(0, usize::MAX);
    world.outputs(0);
    assert_eq!(accepted(&world, world.log[2].offset).seq, 2);
    assert!(!world.verdicts.contains_key(&world.log[1].offset));
    // And the position does not pass what waits (I6).
    assert_eq!(world.nodes[0].core.low_water(), world.log[1].offset);
}

#[test]
fn nobody_but_a_member_gets_a_place() {
    let mut world = World::new();
    world.send(world.conversations[0], world.outsider, 1);
    world.settle();
    assert!(world.store.events.is_empty());
    let offset = world.log[0].offset;
    assert!(matches!(world.verdicts[&offset][0], Verdict::Rejected(_)));
}

#[test]
fn what_is_not_in_the_store_yet_is_bounded() {
    let mut world = World::new();
    world.send(world.conversations[0], user(1), 0);
    world.settle();
    let record = world.log[0].clone();
    let core = &mut world.nodes[0].core;
    let mut taken = 0_u64;
    while core.has_room() {
        taken += 1;
        let id = MessageId::from_bytes((u128::MAX - 1_000_000 + u128::from(taken)).to_be_bytes());
        let origin = Origin::default();
        let body = MessageBody {
            text: "x".to_owned(),
            ..MessageBody::default()
        };
        let send = Send {
            sender: user(1),
            message_id: id,
            body,
            refused_unless_duplicate: 0,
            origin,
        };
        let payload = codec::encode_send(world.conversations[0], send);
        core.ingest(&Record {
            offset: taken + 1,
            payload,
            ..record.clone()
        })
        .unwrap();
        assert!(taken <= crate::limits::UNPERSISTED_MAX as u64);
    }
    let batch = core.cut().unwrap();
    assert!(!core.has_room(), "a batch that is under way counts");
    world.store.persist(&batch.sequenced);
    core.persisted();
    assert!(core.has_room(), "it goes on by itself");
}
