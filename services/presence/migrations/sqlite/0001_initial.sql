-- When each user was last seen. One row a user, overwritten; no index but the key.
CREATE TABLE last_seen (
    user_id      BLOB    NOT NULL PRIMARY KEY CHECK (length(user_id) = 16),
    seen_unix_ms INTEGER NOT NULL CHECK (seen_unix_ms >= 0)
) STRICT, WITHOUT ROWID;
