-- What messaging keeps, in a database of its own. Every number only grows, and nothing but the log
-- decides one: rows are merged, never counted up.

-- The state of a conversation, as its sequencer left it. Half of each page is left free, so that a
-- new version of a row fits beside the old one and no index is written.
CREATE TABLE conversations (
    conversation_id    bytea  PRIMARY KEY,
    head_seq           bigint NOT NULL,
    last_message_index bigint NOT NULL,
    last_time_unix_ms  bigint NOT NULL,
    applied_end        bigint NOT NULL
) WITH (fillfactor = 50);

-- Members that have done anything.
CREATE TABLE members (
    conversation_id         bytea  NOT NULL,
    user_id                 uuid   NOT NULL,
    message_id_max          uuid,
    delivered_seq           bigint NOT NULL,
    delivered_message_index bigint NOT NULL,
    read_seq                bigint NOT NULL,
    read_message_index      bigint NOT NULL,
    PRIMARY KEY (conversation_id, user_id)
) WITH (fillfactor = 50);

-- Numbered entries. The primary key is history, and the guard of one event a place. Partitioned by
-- conversation, so that no table or index grows with all of them, and vacuums run side by side.
CREATE TABLE events (
    conversation_id bytea    NOT NULL,
    seq             bigint   NOT NULL,
    message_index   bigint   NOT NULL,
    log_offset      bigint   NOT NULL,
    time_unix_ms    bigint   NOT NULL,
    kind            smallint NOT NULL,
    sender          uuid     NOT NULL,
    message_id      uuid     NOT NULL,
    body            bytea    NOT NULL,
    PRIMARY KEY (conversation_id, seq)
) PARTITION BY HASH (conversation_id);

-- Retries. The message id comes first: ids grow with time, so that this index is appended to. A
-- client that makes random ones makes its own inserts dearer, nothing else. Not unique: which of
-- two events is the first one is the sequencer's to know, not the store's to enforce.
CREATE INDEX events_by_name ON events (message_id, conversation_id);

DO $$
BEGIN
    FOR remainder IN 0..15 LOOP
        EXECUTE format(
            'CREATE TABLE events_%s PARTITION OF events FOR VALUES WITH (MODULUS 16, REMAINDER %s)',
            to_char(remainder, 'FM00'), remainder
        );
    END LOOP;
END
$$;

-- What each user's inbox is at. A badge and a heartbeat read one row of it. `previous_version` is
-- the version that the last change was built on: a writer names in it what it has read, and changes
-- nothing if that is not the version any more.
CREATE TABLE inbox_heads (
    user_id          uuid   PRIMARY KEY,
    version          bigint NOT NULL,
    previous_version bigint NOT NULL,
    unread_total     bigint NOT NULL
) WITH (fillfactor = 50);

-- The rows of conversation lists. The preview's columns are null together. Its text is bytes,
-- because `text` cannot hold the character U+0000.
CREATE TABLE inbox (
    user_id                      uuid   NOT NULL,
    conversation_id              bytea  NOT NULL,
    version                      bigint NOT NULL,
    last_seq                     bigint NOT NULL,
    last_message_index           bigint NOT NULL,
    own_delivered_seq            bigint NOT NULL,
    own_delivered_message_index  bigint NOT NULL,
    own_read_seq                 bigint NOT NULL,
    own_read_message_index       bigint NOT NULL,
    peer_delivered_seq           bigint NOT NULL,
    peer_delivered_message_index bigint NOT NULL,
    peer_read_seq                bigint NOT NULL,
    peer_read_message_index      bigint NOT NULL,
    preview_sender               uuid,
    preview_message_id           uuid,
    preview_seq                  bigint,
    preview_time_unix_ms         bigint,
    preview_text                 bytea,
    PRIMARY KEY (user_id, conversation_id)
) WITH (fillfactor = 70);

-- What has changed since a version.
CREATE INDEX inbox_by_version ON inbox (user_id, version);

-- The conversation list: newest message first. The id breaks ties, so that pages never overlap.
CREATE INDEX inbox_by_time ON inbox (user_id, preview_time_unix_ms, conversation_id)
    WHERE preview_time_unix_ms IS NOT NULL;

-- Which log a reader follows.
CREATE TABLE readers (
    reader     text   NOT NULL,
    topic      text   NOT NULL,
    log_id     text   NOT NULL,
    topic_id   text   NOT NULL,
    partitions bigint NOT NULL,
    PRIMARY KEY (reader, topic)
);

-- How far it has got. A few rows that change all the time.
CREATE TABLE reader_positions (
    reader    text   NOT NULL,
    topic     text   NOT NULL,
    partition bigint NOT NULL,
    position  bigint NOT NULL,
    PRIMARY KEY (reader, topic, partition)
) WITH (fillfactor = 10);

-- Called by the statement that persists, in the places where it must not go on: they end it, and
-- with it everything that it has done. The detail names what is wrong, for the caller.

CREATE FUNCTION refuse_event(conversation_id bytea, seq bigint) RETURNS smallint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RAISE EXCEPTION 'an event is already there and differs'
        USING ERRCODE = 'ME001', DETAIL = encode(conversation_id, 'hex') || ' ' || seq;
END
$$;

CREATE FUNCTION refuse_head(conversation_id bytea) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RAISE EXCEPTION 'a stored head is below the one that a batch was built on'
        USING ERRCODE = 'ME002', DETAIL = encode(conversation_id, 'hex');
END
$$;
