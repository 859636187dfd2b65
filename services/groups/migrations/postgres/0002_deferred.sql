-- Huge groups. The event from which on the rows of members' lists are not written for the events of others;
-- 0 = they are. It is set once, and stays when the group shrinks.
ALTER TABLE groups ADD COLUMN deferred_seq bigint NOT NULL DEFAULT 0;
