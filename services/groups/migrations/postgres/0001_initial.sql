-- Groups, their members, what the log is still to be told, and how far readers have got.

-- A group that has ended stays, with no members, until its last event was fanned out.
CREATE TABLE groups (
    group_id        uuid     NOT NULL PRIMARY KEY,
    version         bigint   NOT NULL,
    name            text     NOT NULL,
    description     text     NOT NULL,
    picture         text     NOT NULL,
    -- A bit for each, see Settings.
    settings        smallint NOT NULL,
    member_count    bigint   NOT NULL,
    created_unix_ms bigint   NOT NULL
);

CREATE TABLE members (
    group_id       uuid     NOT NULL,
    user_id        uuid     NOT NULL,
    role           smallint NOT NULL,
    joined_unix_ms bigint   NOT NULL,
    joined_version bigint   NOT NULL,
    PRIMARY KEY (group_id, user_id)
);

-- The groups of a user.
CREATE UNIQUE INDEX members_by_user ON members (user_id, group_id);
-- Who is next in line to own a group.
CREATE INDEX members_in_line ON members (group_id, role DESC, joined_version, user_id);

-- From when to when somebody was a member, in versions. Those that ended go when everything up to
-- their end was fanned out.
CREATE TABLE stints (
    group_id       uuid     NOT NULL,
    user_id        uuid     NOT NULL,
    joined_version bigint   NOT NULL,
    left_version   bigint,
    PRIMARY KEY (group_id, user_id, joined_version)
);

CREATE INDEX stints_ended ON stints (group_id, left_version) WHERE left_version IS NOT NULL;

-- What who has left sees of a group.
CREATE TABLE past_members (
    user_id      uuid     NOT NULL,
    group_id     uuid     NOT NULL,
    name         text     NOT NULL,
    picture      text     NOT NULL,
    left_version bigint   NOT NULL,
    left_unix_ms bigint   NOT NULL,
    PRIMARY KEY (user_id, group_id)
);

CREATE INDEX past_members_by_time ON past_members (user_id, left_unix_ms DESC, group_id);

-- Of a token there is its SHA-256 only.
CREATE TABLE invitations (
    invitation_id   uuid     NOT NULL PRIMARY KEY,
    group_id        uuid     NOT NULL,
    token_hash      bytea    NOT NULL UNIQUE,
    created_by      uuid     NOT NULL,
    created_unix_ms bigint   NOT NULL,
    expires_unix_ms bigint   NOT NULL,
    uses_max        bigint   NOT NULL,
    uses            bigint   NOT NULL
);

CREATE INDEX invitations_of_group ON invitations (group_id, created_unix_ms DESC, invitation_id);

CREATE TABLE join_requests (
    group_id          uuid     NOT NULL,
    user_id           uuid     NOT NULL,
    requested_unix_ms bigint   NOT NULL,
    PRIMARY KEY (group_id, user_id)
);

-- Changes that the log has not been seen to carry out. A row goes away only by that.
CREATE TABLE outbox (
    group_id    uuid     NOT NULL,
    version     bigint   NOT NULL,
    payload     bytea    NOT NULL,
    -- Whose request made it.
    actor_id    uuid     NOT NULL,
    request_id  uuid     NOT NULL,
    -- When it is given to the log again, and how often it was.
    due_unix_ms bigint   NOT NULL,
    tries       bigint   NOT NULL,
    PRIMARY KEY (group_id, version)
);

CREATE INDEX outbox_by_due ON outbox (due_unix_ms);

-- What was carried out, for a repetition. version 0: it changed nothing; seq 0: not known yet.
CREATE TABLE requests (
    actor_id        uuid     NOT NULL,
    request_id      uuid     NOT NULL,
    digest          bytea    NOT NULL,
    group_id        uuid     NOT NULL,
    version         bigint   NOT NULL,
    seq             bigint   NOT NULL,
    answer          bytea    NOT NULL,
    created_unix_ms bigint   NOT NULL,
    PRIMARY KEY (actor_id, request_id)
);

CREATE INDEX requests_by_time ON requests (created_unix_ms);

-- What tokens of invitations are derived from; one row.
CREATE TABLE secrets (
    only_row boolean  NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
    secret   bytea    NOT NULL
);
-- 244 random bits of the kind that nobody can guess.
INSERT INTO secrets (secret) VALUES (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));

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
