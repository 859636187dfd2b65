-- What messaging keeps. The cost of a batch is the number of different pages that it writes, hence:
-- integers stand for ids where rows are many, tables are ordered by when a row was made, an index
-- exists only where a read needs it.

-- The state of a conversation, as its sequencer left it. Every number only grows.
CREATE TABLE conversations (
    conversation_no    INTEGER PRIMARY KEY,
    conversation_id    BLOB    NOT NULL UNIQUE,
    head_seq           INTEGER NOT NULL,
    last_message_index INTEGER NOT NULL,
    last_time_unix_ms  INTEGER NOT NULL,
    applied_end        INTEGER NOT NULL
) STRICT;

-- Members that have done anything. The rows of a conversation lie together, those of conversations
-- that began together are neighbours.
CREATE TABLE members (
    conversation_no         INTEGER NOT NULL,
    user_id                 BLOB    NOT NULL,
    message_id_max          BLOB,
    delivered_seq           INTEGER NOT NULL,
    delivered_message_index INTEGER NOT NULL,
    read_seq                INTEGER NOT NULL,
    read_message_index      INTEGER NOT NULL,
    PRIMARY KEY (conversation_no, user_id)
) STRICT, WITHOUT ROWID;

-- Numbered entries, appended in the order of the log.
CREATE TABLE events (
    event_no        INTEGER PRIMARY KEY,
    conversation_no INTEGER NOT NULL,
    seq             INTEGER NOT NULL,
    message_index   INTEGER NOT NULL,
    log_offset      INTEGER NOT NULL,
    time_unix_ms    INTEGER NOT NULL,
    kind            INTEGER NOT NULL,
    sender          BLOB    NOT NULL,
    message_id      BLOB    NOT NULL,
    body            BLOB    NOT NULL
) STRICT;

-- History, and the guard of one event a place.
CREATE UNIQUE INDEX events_by_seq ON events (conversation_no, seq);

-- Retries. The message id comes first: ids grow with time, so that this index is appended to. A
-- client that makes random ones makes its own inserts dearer, nothing else. Not unique: which of
-- two events is the first one is the sequencer's to know, not the store's to enforce.
CREATE INDEX events_by_name ON events (message_id, sender, conversation_no);

-- What each user's inbox is at. A badge and a heartbeat read one row of it.
CREATE TABLE inbox_heads (
    user_no      INTEGER PRIMARY KEY,
    user_id      BLOB    NOT NULL UNIQUE,
    version      INTEGER NOT NULL,
    unread_total INTEGER NOT NULL
) STRICT;

-- The rows of conversation lists. The preview's columns are null together.
CREATE TABLE inbox (
    row_no                       INTEGER PRIMARY KEY,
    user_no                      INTEGER NOT NULL,
    conversation_id              BLOB    NOT NULL,
    version                      INTEGER NOT NULL,
    last_seq                     INTEGER NOT NULL,
    last_message_index           INTEGER NOT NULL,
    own_delivered_seq            INTEGER NOT NULL,
    own_delivered_message_index  INTEGER NOT NULL,
    own_read_seq                 INTEGER NOT NULL,
    own_read_message_index       INTEGER NOT NULL,
    peer_delivered_seq           INTEGER NOT NULL,
    peer_delivered_message_index INTEGER NOT NULL,
    peer_read_seq                INTEGER NOT NULL,
    peer_read_message_index      INTEGER NOT NULL,
    preview_sender               BLOB,
    preview_message_id           BLOB,
    preview_seq                  INTEGER,
    preview_time_unix_ms         INTEGER,
    preview_text                 TEXT,
    UNIQUE (user_no, conversation_id)
) STRICT;

-- What has changed since a version.
CREATE INDEX inbox_by_version ON inbox (user_no, version);

-- The conversation list: newest message first. The id breaks ties, so that pages never overlap.
CREATE INDEX inbox_by_time ON inbox (user_no, preview_time_unix_ms, conversation_id)
    WHERE preview_time_unix_ms IS NOT NULL;

-- Which log a reader follows.
CREATE TABLE readers (
    reader     TEXT    NOT NULL,
    topic      TEXT    NOT NULL,
    log_id     TEXT    NOT NULL,
    topic_id   TEXT    NOT NULL,
    partitions INTEGER NOT NULL,
    PRIMARY KEY (reader, topic)
) STRICT, WITHOUT ROWID;

-- How far it has got.
CREATE TABLE reader_positions (
    reader    TEXT    NOT NULL,
    topic     TEXT    NOT NULL,
    partition INTEGER NOT NULL,
    position  INTEGER NOT NULL,
    PRIMARY KEY (reader, topic, partition)
) STRICT, WITHOUT ROWID;
