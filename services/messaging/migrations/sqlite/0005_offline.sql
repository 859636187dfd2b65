-- Rows of lists for which a record of `offline` was made, and up to which event. Goes when it is read.
CREATE TABLE offline_rows (
    user_id         BLOB    NOT NULL,
    conversation_id BLOB    NOT NULL,
    seq             INTEGER NOT NULL,
    PRIMARY KEY (user_id, conversation_id)
) STRICT, WITHOUT ROWID;
