-- When each user was last seen. One row a user, overwritten in place (there is room in its page, and no
-- index but the key).
CREATE TABLE last_seen (
    user_id      uuid   NOT NULL PRIMARY KEY,
    seen_unix_ms bigint NOT NULL CHECK (seen_unix_ms >= 0)
) WITH (fillfactor = 80);
