-- Groups, their members, what the log is still to be told, and how far readers have got.

-- A group that has ended stays, with no members, until its last event was fanned out.
CREATE TABLE groups (
    group_id        BLOB    NOT NULL PRIMARY KEY,
    version         INTEGER NOT NULL,
    name            TEXT    NOT NULL,
    description     TEXT    NOT NULL,
    picture         TEXT    NOT NULL,
    -- A bit for each, see Settings.
    settings        INTEGER NOT NULL,
    member_count    INTEGER NOT NULL,
    created_unix_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE members (
    group_id       BLOB    NOT NULL,
    user_id        BLOB    NOT NULL,
    role           INTEGER NOT NULL,
    joined_unix_ms INTEGER NOT NULL,
    joined_version INTEGER NOT NULL,
    PRIMARY KEY (group_id, user_id)
) STRICT, WITHOUT ROWID;

-- The groups of a user.
CREATE UNIQUE INDEX members_by_user ON members (user_id, group_id);
-- Who is next in line to own a group.
CREATE INDEX members_in_line ON members (group_id, role DESC, joined_version, user_id);

-- From when to when somebody was a member, in versions. Those that ended go when everything up to
-- their end was fanned out.
CREATE TABLE stints (
    group_id       BLOB    NOT NULL,
    user_id        BLOB    NOT NULL,
    joined_version INTEGER NOT NULL,
    left_version   INTEGER,
    PRIMARY KEY (group_id, user_id, joined_version)
) STRICT, WITHOUT ROWID;

CREATE INDEX stints_ended ON stints (group_id, left_version) WHERE left_version IS NOT NULL;

-- What who has left sees of a group.
CREATE TABLE past_members (
    user_id      BLOB    NOT NULL,
    group_id     BLOB    NOT NULL,
    name         TEXT    NOT NULL,
    picture      TEXT    NOT NULL,
    left_version INTEGER NOT NULL,
    left_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (user_id, group_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX past_members_by_time ON past_members (user_id, left_unix_ms DESC, group_id);

-- Of a token there is its SHA-256 only.
CREATE TABLE invitations (
    invitation_id   BLOB    NOT NULL PRIMARY KEY,
    group_id        BLOB    NOT NULL,
    token_hash      BLOB    NOT NULL UNIQUE,
    created_by      BLOB    NOT NULL,
    created_unix_ms INTEGER NOT NULL,
    expires_unix_ms INTEGER NOT NULL,
    uses_max        INTEGER NOT NULL,
    uses            INTEGER NOT NULL
) STRICT;

CREATE INDEX invitations_of_group ON invitations (group_id, created_unix_ms DESC, invitation_id);

CREATE TABLE join_requests (
    group_id          BLOB    NOT NULL,
    user_id           BLOB    NOT NULL,
    requested_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (group_id, user_id)
) STRICT, WITHOUT ROWID;

-- Changes that the log has not been seen to carry out. A row goes away only by that.
CREATE TABLE outbox (
    group_id    BLOB    NOT NULL,
    version     INTEGER NOT NULL,
    payload     BLOB    NOT NULL,
    -- Whose request made it.
    actor_id    BLOB    NOT NULL,
    request_id  BLOB    NOT NULL,
    -- When it is given to the log again, and how often it was.
    due_unix_ms INTEGER NOT NULL,
    tries       INTEGER NOT NULL,
    PRIMARY KEY (group_id, version)
) STRICT, WITHOUT ROWID;

CREATE INDEX outbox_by_due ON outbox (due_unix_ms);

-- What was carried out, for a repetition. version 0: it changed nothing; seq 0: not known yet.
CREATE TABLE requests (
    actor_id        BLOB    NOT NULL,
    request_id      BLOB    NOT NULL,
    digest          BLOB    NOT NULL,
    group_id        BLOB    NOT NULL,
    version         INTEGER NOT NULL,
    seq             INTEGER NOT NULL,
    answer          BLOB    NOT NULL,
    created_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (actor_id, request_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_by_time ON requests (created_unix_ms);

-- What tokens of invitations are derived from; one row.
CREATE TABLE secrets (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    secret   BLOB    NOT NULL
) STRICT;
INSERT INTO secrets VALUES (1, randomblob(32));

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
