-- Addresses of users, and the digests that go there.

-- When it may be claimed: however much is claimed, nobody looks through it.
DROP INDEX held_due;
CREATE INDEX held_ready ON held (max(due_unix_ms, claimed_until_unix_ms));

-- 3 = daily.
ALTER TABLE preferences ADD COLUMN digest INTEGER NOT NULL DEFAULT 3;
ALTER TABLE preferences ADD COLUMN digest_hour INTEGER NOT NULL DEFAULT 8;

-- One of a user, confirmed or not.
CREATE TABLE emails (
    user_id               BLOB    NOT NULL PRIMARY KEY,
    -- With its domain in lower case.
    address               TEXT    NOT NULL,
    confirmed             INTEGER NOT NULL,
    -- Why nothing is sent there; NULL = something is.
    disabled              INTEGER,
    -- In a row, one for each mail.
    soft_bounces          INTEGER NOT NULL,
    -- The last mail is among them.
    last_bounced          INTEGER NOT NULL,
    -- What confirms it, or has confirmed it; all three or none.
    code_hash             BLOB,
    code_since_unix_ms    INTEGER,
    code_tries            INTEGER,
    -- Only of users with a confirmed address that is not disabled, and who want digests.
    next_digest_unix_ms   INTEGER,
    claimed_until_unix_ms INTEGER NOT NULL,
    -- Of the newest message that a digest has told of; 0 = none has.
    told_unix_ms          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX emails_by_address ON emails (address, user_id);
-- When it may be claimed.
CREATE INDEX emails_ready ON emails (max(next_digest_unix_ms, claimed_until_unix_ms))
    WHERE next_digest_unix_ms IS NOT NULL;

-- Mails with a code that were sent: those of a day are counted, older ones go with the next mails.
CREATE TABLE confirmation_mails (
    mail_id      INTEGER NOT NULL PRIMARY KEY,
    user_id      BLOB    NOT NULL,
    -- SHA-256 of the address in small letters.
    address_hash BLOB    NOT NULL,
    sent_unix_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX confirmation_mails_by_user ON confirmation_mails (user_id, sent_unix_ms);
CREATE INDEX confirmation_mails_by_address ON confirmation_mails (address_hash, sent_unix_ms);
CREATE INDEX confirmation_mails_by_time ON confirmation_mails (sent_unix_ms);
