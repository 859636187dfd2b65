-- Uploads, blobs, what refers to them, and how far readers have got.

-- A row goes a day after its upload was begun, finished or not.
CREATE TABLE uploads (
    owner_id      uuid     NOT NULL,
    -- Named by the client.
    upload_id     uuid     NOT NULL,
    purpose       smallint NOT NULL,
    size_bytes    bigint   NOT NULL,
    source_sha256 bytea    NOT NULL,
    -- What it becomes; if it is finished, what it has become.
    blob_id       uuid     NOT NULL,
    begun_unix_ms bigint   NOT NULL,
    finished      boolean  NOT NULL,
    PRIMARY KEY (owner_id, upload_id)
);

CREATE INDEX uploads_by_time ON uploads (begun_unix_ms);
-- How many of a user are not finished.
CREATE INDEX uploads_unfinished ON uploads (owner_id) WHERE NOT finished;

-- Bytes that may be there and that nobody needs: of uploads that are over, under the name that was chosen
-- for each. A row goes when the bytes are gone.
CREATE TABLE leftovers (
    owner_id      uuid     NOT NULL,
    upload_id     uuid     NOT NULL,
    blob_id       uuid     NOT NULL,
    since_unix_ms bigint   NOT NULL,
    PRIMARY KEY (owner_id, upload_id, blob_id)
);

CREATE INDEX leftovers_by_time ON leftovers (since_unix_ms);

-- Blobs whose bytes are there, or go.
CREATE TABLE blobs (
    blob_id            uuid     NOT NULL PRIMARY KEY,
    owner_id           uuid     NOT NULL,
    purpose            smallint NOT NULL,
    media_type         text     NOT NULL,
    size_bytes         bigint   NOT NULL,
    sha256             bytea    NOT NULL,
    source_sha256      bytea    NOT NULL,
    -- The blob whose thumbnails are those of this video. This row is the reference to it.
    poster_id          uuid,
    created_unix_ms    bigint   NOT NULL,
    kept_until_unix_ms bigint   NOT NULL,
    -- How it looks; all there or none.
    width              bigint,
    height             bigint,
    placeholder        text,
    small_media_type   text,
    small_width        bigint,
    small_height       bigint,
    small_size_bytes   bigint,
    large_media_type   text,
    large_width        bigint,
    large_height       bigint,
    large_size_bytes   bigint,
    -- Its bytes are being removed: nobody is told of it any more.
    going              boolean  NOT NULL,
    -- Perhaps nothing refers to it. Set whenever that may have become so, taken away by who has looked.
    -- If nothing refers to a blob, it is set or the blob is going; the reverse need not be.
    to_check           boolean  NOT NULL
);

-- What a user has uploaded before.
CREATE UNIQUE INDEX blobs_by_source ON blobs (owner_id, purpose, source_sha256) WHERE NOT going;
CREATE INDEX blobs_by_poster ON blobs (poster_id) WHERE poster_id IS NOT NULL;
CREATE INDEX blobs_to_check ON blobs (purpose, kept_until_unix_ms) WHERE to_check;
CREATE INDEX blobs_going ON blobs (blob_id) WHERE going;

-- Blobs of events. What was removed stays, so that a repetition of what was before changes nothing, until
-- the blob is forgotten: then no repetition finds it.
CREATE TABLE event_references (
    -- The conversation's id, then seq in 8 bytes.
    referrer bytea    NOT NULL,
    blob_id  uuid     NOT NULL,
    removed  boolean  NOT NULL,
    PRIMARY KEY (referrer, blob_id)
);

CREATE INDEX event_references_by_blob ON event_references (blob_id, removed);

-- Pictures of groups and profiles: one row for each that ever had one.
CREATE TABLE pictures (
    -- 1 = of a group, 2 = of a profile.
    kind    smallint NOT NULL,
    id      uuid     NOT NULL,
    version bigint   NOT NULL,
    blob_id uuid,
    PRIMARY KEY (kind, id)
);

CREATE INDEX pictures_by_blob ON pictures (blob_id) WHERE blob_id IS NOT NULL;

-- The latest barrier that was read in each partition of `references`.
CREATE TABLE reference_barriers (
    partition     bigint   NOT NULL PRIMARY KEY,
    as_of_unix_ms bigint   NOT NULL
);

-- Which log a reader follows.
CREATE TABLE readers (
    reader     text     NOT NULL,
    topic      text     NOT NULL,
    log_id     text     NOT NULL,
    topic_id   text     NOT NULL,
    partitions bigint   NOT NULL,
    PRIMARY KEY (reader, topic)
);

-- How far it has got. A few rows that change all the time.
CREATE TABLE reader_positions (
    reader    text     NOT NULL,
    topic     text     NOT NULL,
    partition bigint   NOT NULL,
    position  bigint   NOT NULL,
    PRIMARY KEY (reader, topic, partition)
) WITH (fillfactor = 10);
