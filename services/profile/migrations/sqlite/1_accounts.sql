-- Accounts, their devices, what they are found by, and what the log is still to be told.

CREATE TABLE users (
    user_id         BLOB    NOT NULL PRIMARY KEY,
    username        TEXT    NOT NULL UNIQUE,
    display_name    TEXT    NOT NULL,
    status_text     TEXT    NOT NULL,
    created_unix_ms INTEGER NOT NULL,
    version         INTEGER NOT NULL,
    -- In the PHC string format: the algorithm and its parameters are part of it.
    password_hash   TEXT    NOT NULL
) STRICT;

-- A device that was logged out has no row.
CREATE TABLE devices (
    user_id           BLOB    NOT NULL,
    device_id         BLOB    NOT NULL,
    name              TEXT    NOT NULL,
    created_unix_ms   INTEGER NOT NULL,
    refreshed_unix_ms INTEGER NOT NULL,
    -- Of its refresh tokens there are hashes only, of 32 bytes each.
    family_hash       BLOB    NOT NULL,
    unused_hashes     BLOB    NOT NULL,
    used_hash         BLOB,
    used_unix_ms      INTEGER NOT NULL,
    expires_unix_ms   INTEGER NOT NULL,
    -- Grows with each change, so that of two changes at once one is done again.
    revision          INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id)
) STRICT, WITHOUT ROWID;

-- term is in UTF-8. whole = 1: a term as it is. whole = 0: its first one, two or three characters,
-- so that a short prefix, which many users share, is read in the order of usernames.
CREATE TABLE search_terms (
    whole    INTEGER NOT NULL,
    term     BLOB    NOT NULL,
    username TEXT    NOT NULL,
    user_id  BLOB    NOT NULL,
    PRIMARY KEY (whole, term, username)
) STRICT, WITHOUT ROWID;

-- Facts for the topic `users`, in the order in which they became true.
CREATE TABLE outbox (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id BLOB NOT NULL,
    payload BLOB NOT NULL
) STRICT;
