-- Huge groups. The event from which on the row is not written for the events of others, but completed when
-- it is read; 0 = it is written.
ALTER TABLE inbox ADD COLUMN deferred_seq INTEGER NOT NULL DEFAULT 0;

-- Those rows, but for groups that the user has left. Few users have any.
CREATE INDEX inbox_deferred ON inbox (user_no, deferred_seq, conversation_id)
    WHERE deferred_seq > 0 AND joined_seq >= left_seq;
