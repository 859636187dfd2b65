-- Accounts, their devices, what they are found by, and what the log is still to be told.

CREATE TABLE users (
    user_id         uuid   NOT NULL PRIMARY KEY,
    -- In the order of its bytes, whatever the language of the database.
    username        text   COLLATE "C" NOT NULL UNIQUE,
    display_name    text   NOT NULL,
    status_text     text   NOT NULL,
    created_unix_ms bigint NOT NULL,
    version         bigint NOT NULL,
    -- In the PHC string format: the algorithm and its parameters are part of it.
    password_hash   text   NOT NULL
);

-- A device that was logged out has no row. A row is overwritten with each refresh, in the room that
-- its page has for that.
CREATE TABLE devices (
    user_id           uuid   NOT NULL,
    device_id         uuid   NOT NULL,
    name              text   NOT NULL,
    created_unix_ms   bigint NOT NULL,
    refreshed_unix_ms bigint NOT NULL,
    -- Of its refresh tokens there are hashes only, of 32 bytes each.
    family_hash       bytea  NOT NULL,
    unused_hashes     bytea  NOT NULL,
    used_hash         bytea,
    used_unix_ms      bigint NOT NULL,
    expires_unix_ms   bigint NOT NULL,
    -- Grows with each change, so that of two changes at once one is done again.
    revision          bigint NOT NULL,
    PRIMARY KEY (user_id, device_id)
) WITH (fillfactor = 80);

-- term is in UTF-8, as bytes: so it is ordered by them, and has an end for each prefix. whole: a term as
-- it is. Not whole: its first one, two or three characters, so that a short prefix, which many users
-- share, is read in the order of usernames.
CREATE TABLE search_terms (
    whole    boolean NOT NULL,
    term     bytea   NOT NULL,
    username text    COLLATE "C" NOT NULL,
    PRIMARY KEY (whole, term, username)
);

-- Facts for the topic `users`. Those of one user are numbered under the lock of the user's row, and so in
-- the order in which they became true.
CREATE TABLE outbox (
    id      bigint NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id uuid   NOT NULL,
    payload bytea  NOT NULL
);

-- Which process relays the outbox, and until when; one row.
CREATE TABLE relay_lease (
    only_row   boolean     NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
    holder     uuid        NOT NULL,
    expires_at timestamptz NOT NULL
);
INSERT INTO relay_lease (holder, expires_at)
VALUES ('00000000-0000-0000-0000-000000000000', 'epoch');

-- Failed log-ins: when all that was taken of a cell's budget will have come back. A name has the cell
-- that a hash of it with the seed says: 65,536 of them, so that nobody fills the table with names, and
-- a seed, so that nobody finds names that share one.
CREATE TABLE failed_log_ins (
    cell    integer     NOT NULL PRIMARY KEY CHECK (cell BETWEEN 0 AND 65535),
    full_at timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE failed_log_ins_seed (
    only_row boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
    seed     uuid    NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO failed_log_ins_seed DEFAULT VALUES;
