-- Groups. What was there before reads as a direct conversation's. Defaults are constants, so that no
-- table is rewritten, and replicas of the version before go on: they name the columns that they know.

-- What the log says of the group. The three hold together, those of the larger `group_version`.
ALTER TABLE conversations
    ADD COLUMN group_version bigint  NOT NULL DEFAULT 0,
    ADD COLUMN announcement  boolean NOT NULL DEFAULT false,
    ADD COLUMN history_all   boolean NOT NULL DEFAULT false;

-- What the log says of the user in the group. The three hold together, those of the larger
-- `membership_version`, and are null together, in a direct conversation. Role 0 = not a member any more.
-- Windows: 16 bytes each, oldest first: the first seq and the last, of 8 bytes each, big endian; the last
-- is all ones in the one that is still open.
ALTER TABLE members
    ADD COLUMN membership_version bigint,
    ADD COLUMN role               smallint,
    ADD COLUMN windows            bytea;

-- The last events by which the user joined and left; 0 = never. `preview_joined`: what is shown is that
-- event, and no message.
ALTER TABLE inbox
    ADD COLUMN joined_seq     bigint  NOT NULL DEFAULT 0,
    ADD COLUMN left_seq       bigint  NOT NULL DEFAULT 0,
    ADD COLUMN preview_joined boolean NOT NULL DEFAULT false;
