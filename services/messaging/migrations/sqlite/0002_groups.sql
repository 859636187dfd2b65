-- Groups. What a direct conversation does not have is 0 or NULL, which costs a byte a column; what was
-- there before reads as a direct conversation's.

-- What the log says of the group. The three hold together, those of the larger `group_version`.
ALTER TABLE conversations ADD COLUMN group_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN announcement INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN history_all INTEGER NOT NULL DEFAULT 0;

-- What the log says of the user in the group. The three hold together, those of the larger
-- `membership_version`, and are null together, in a direct conversation. Role 0 = not a member any more.
-- Windows: 16 bytes each, oldest first: the first seq and the last, of 8 bytes each, big endian; the last
-- is all ones in the one that is still open.
ALTER TABLE members ADD COLUMN membership_version INTEGER;
ALTER TABLE members ADD COLUMN role INTEGER;
ALTER TABLE members ADD COLUMN windows BLOB;

-- The last events by which the user joined and left; 0 = never. `preview_joined` = 1: what is shown is
-- that event, and no message.
ALTER TABLE inbox ADD COLUMN joined_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE inbox ADD COLUMN left_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE inbox ADD COLUMN preview_joined INTEGER NOT NULL DEFAULT 0;
