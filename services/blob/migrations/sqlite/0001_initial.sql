-- Uploads, blobs, what refers to them, and how far readers have got.

-- A row goes a day after its upload was begun, finished or not.
CREATE TABLE uploads (
    owner_id      BLOB    NOT NULL,
    -- Named by the client.
    upload_id     BLOB    NOT NULL,
    purpose       INTEGER NOT NULL,
    size_bytes    INTEGER NOT NULL,
    source_sha256 BLOB    NOT NULL,
    -- What it becomes; if it is finished, what it has become.
    blob_id       BLOB    NOT NULL,
    begun_unix_ms INTEGER NOT NULL,
    finished      INTEGER NOT NULL,
    PRIMARY KEY (owner_id, upload_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX uploads_by_time ON uploads (begun_unix_ms);
-- How many of a user are not finished.
CREATE INDEX uploads_unfinished ON uploads (owner_id) WHERE finished = 0;

-- Bytes that may be there and that nobody needs: of uploads that are over, under the name that was chosen
-- for each. A row goes when the bytes are gone.
CREATE TABLE leftovers (
    owner_id      BLOB    NOT NULL,
    upload_id     BLOB    NOT NULL,
    blob_id       BLOB    NOT NULL,
    since_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (owner_id, upload_id, blob_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX leftovers_by_time ON leftovers (since_unix_ms);

-- Blobs whose bytes are there, or go.
CREATE TABLE blobs (
    blob_id            BLOB    NOT NULL PRIMARY KEY,
    owner_id           BLOB    NOT NULL,
    purpose            INTEGER NOT NULL,
    media_type         TEXT    NOT NULL,
    size_bytes         INTEGER NOT NULL,
    sha256             BLOB    NOT NULL,
    source_sha256      BLOB    NOT NULL,
    -- The blob whose thumbnails are those of this video. This row is the reference to it.
    poster_id          BLOB,
    created_unix_ms    INTEGER NOT NULL,
    kept_until_unix_ms INTEGER NOT NULL,
    -- How it looks; all there or none.
    width              INTEGER,
    height             INTEGER,
    placeholder        TEXT,
    small_media_type   TEXT,
    small_width        INTEGER,
    small_height       INTEGER,
    small_size_bytes   INTEGER,
    large_media_type   TEXT,
    large_width        INTEGER,
    large_height       INTEGER,
    large_size_bytes   INTEGER,
    -- Its bytes are being removed: nobody is told of it any more.
    going              INTEGER NOT NULL,
    -- Perhaps nothing refers to it. Set whenever that may have become so, taken away by who has looked.
    -- If nothing refers to a blob, it is set or the blob is going; the reverse need not be.
    to_check           INTEGER NOT NULL
) STRICT;

-- What a user has uploaded before.
CREATE UNIQUE INDEX blobs_by_source ON blobs (owner_id, purpose, source_sha256) WHERE going = 0;
CREATE INDEX blobs_by_poster ON blobs (poster_id) WHERE poster_id IS NOT NULL;
CREATE INDEX blobs_to_check ON blobs (purpose, kept_until_unix_ms) WHERE to_check = 1;
CREATE INDEX blobs_going ON blobs (blob_id) WHERE going = 1;

-- Blobs of events. What was removed stays, so that a repetition of what was before changes nothing, until
-- the blob is forgotten: then no repetition finds it.
CREATE TABLE event_references (
    -- The conversation's id, then seq in 8 bytes.
    referrer BLOB    NOT NULL,
    blob_id  BLOB    NOT NULL,
    removed  INTEGER NOT NULL,
    PRIMARY KEY (referrer, blob_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX event_references_by_blob ON event_references (blob_id, removed);

-- Pictures of groups and profiles: one row for each that ever had one.
CREATE TABLE pictures (
    -- 1 = of a group, 2 = of a profile.
    kind    INTEGER NOT NULL,
    id      BLOB    NOT NULL,
    version INTEGER NOT NULL,
    blob_id BLOB,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX pictures_by_blob ON pictures (blob_id) WHERE blob_id IS NOT NULL;

-- The latest barrier that was read in each partition of `references`.
CREATE TABLE reference_barriers (
    partition     INTEGER NOT NULL PRIMARY KEY,
    as_of_unix_ms INTEGER NOT NULL
) STRICT;

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
