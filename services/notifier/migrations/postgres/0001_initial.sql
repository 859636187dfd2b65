-- Targets of devices, what users want, who was told of what, and how far readers have got.

-- Where devices take pushes.
CREATE TABLE targets (
    user_id    uuid     NOT NULL,
    device_id  uuid     NOT NULL,
    kind       smallint NOT NULL,
    -- What the provider knows the device by.
    token      text     NOT NULL,
    -- SHA-256 of kind and token: no two devices have the same one. Tokens are longer than an index takes.
    token_hash bytea    NOT NULL UNIQUE,
    -- APNs: the app, and whether it is one for development.
    topic      text     NOT NULL,
    sandbox    boolean  NOT NULL,
    -- Web Push: the browser's keys.
    p256dh     bytea    NOT NULL,
    auth       bytea    NOT NULL,
    PRIMARY KEY (user_id, device_id)
);

-- Devices that were logged out: they take no pushes, whatever comes for them later.
CREATE TABLE forgotten_devices (
    user_id       uuid   NOT NULL,
    device_id     uuid   NOT NULL,
    since_unix_ms bigint NOT NULL,
    PRIMARY KEY (user_id, device_id)
);

CREATE INDEX forgotten_devices_since ON forgotten_devices (since_unix_ms);

-- What users want, who ever said so.
CREATE TABLE preferences (
    user_id              uuid     NOT NULL PRIMARY KEY,
    push                 boolean  NOT NULL,
    preview              smallint NOT NULL,
    mentions_pierce_mute boolean  NOT NULL,
    quiet                boolean  NOT NULL,
    quiet_from_minute    bigint   NOT NULL,
    quiet_to_minute      bigint   NOT NULL,
    time_zone            text     NOT NULL,
    version              bigint   NOT NULL
);

-- How far devices were told of conversations. Rows change where they are, as long as there is room.
CREATE TABLE told (
    user_id         uuid   NOT NULL,
    device_id       uuid   NOT NULL,
    conversation_id bytea  NOT NULL,
    seq             bigint NOT NULL,
    read_seq        bigint NOT NULL,
    changed_unix_ms bigint NOT NULL,
    PRIMARY KEY (user_id, device_id, conversation_id)
) WITH (fillfactor = 70);

CREATE INDEX told_changed ON told (changed_unix_ms);

-- Records of `offline` that are to come again.
CREATE TABLE held (
    user_id               uuid   NOT NULL,
    conversation_id       bytea  NOT NULL,
    seq                   bigint NOT NULL,
    due_unix_ms           bigint NOT NULL,
    claimed_until_unix_ms bigint NOT NULL,
    payload               bytea  NOT NULL,
    PRIMARY KEY (user_id, conversation_id)
);

-- When it may be claimed: however much is claimed, nobody looks through it.
CREATE INDEX held_ready ON held (greatest(due_unix_ms, claimed_until_unix_ms));

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
