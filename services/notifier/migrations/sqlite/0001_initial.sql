-- Targets of devices, what users want, who was told of what, and how far readers have got.

-- Where devices take pushes.
CREATE TABLE targets (
    user_id      BLOB    NOT NULL,
    device_id    BLOB    NOT NULL,
    kind         INTEGER NOT NULL,
    -- What the provider knows the device by: no two devices have the same one.
    token        TEXT    NOT NULL,
    -- APNs: the app, and whether it is one for development.
    topic        TEXT    NOT NULL,
    sandbox      INTEGER NOT NULL,
    -- Web Push: the browser's keys.
    p256dh       BLOB    NOT NULL,
    auth         BLOB    NOT NULL,
    PRIMARY KEY (user_id, device_id),
    UNIQUE (kind, token)
) STRICT, WITHOUT ROWID;

-- Devices that were logged out: they take no pushes, whatever comes for them later.
CREATE TABLE forgotten_devices (
    user_id       BLOB    NOT NULL,
    device_id     BLOB    NOT NULL,
    since_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX forgotten_devices_since ON forgotten_devices (since_unix_ms);

-- What users want, who ever said so.
CREATE TABLE preferences (
    user_id              BLOB    NOT NULL PRIMARY KEY,
    push                 INTEGER NOT NULL,
    preview              INTEGER NOT NULL,
    mentions_pierce_mute INTEGER NOT NULL,
    quiet                INTEGER NOT NULL,
    quiet_from_minute    INTEGER NOT NULL,
    quiet_to_minute      INTEGER NOT NULL,
    time_zone            TEXT    NOT NULL,
    version              INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How far devices were told of conversations.
CREATE TABLE told (
    user_id         BLOB    NOT NULL,
    device_id       BLOB    NOT NULL,
    conversation_id BLOB    NOT NULL,
    seq             INTEGER NOT NULL,
    read_seq        INTEGER NOT NULL,
    changed_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id, conversation_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX told_changed ON told (changed_unix_ms);

-- Records of `offline` that are to come again.
CREATE TABLE held (
    user_id               BLOB    NOT NULL,
    conversation_id       BLOB    NOT NULL,
    seq                   INTEGER NOT NULL,
    due_unix_ms           INTEGER NOT NULL,
    claimed_until_unix_ms INTEGER NOT NULL,
    payload               BLOB    NOT NULL,
    PRIMARY KEY (user_id, conversation_id)
) STRICT, WITHOUT ROWID;
-- When it may be claimed: however much is claimed, nobody looks through it.
CREATE INDEX held_ready ON held (max(due_unix_ms, claimed_until_unix_ms));

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
