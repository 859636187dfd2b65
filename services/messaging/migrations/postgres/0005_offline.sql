-- Rows of lists for which a record of `offline` was made, and up to which event. Goes when it is read.
CREATE TABLE offline_rows (
    user_id         uuid   NOT NULL,
    conversation_id bytea  NOT NULL,
    seq             bigint NOT NULL,
    PRIMARY KEY (user_id, conversation_id)
);
