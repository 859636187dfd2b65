-- Addresses of users, and the digests that go there.

ALTER TABLE preferences
    -- 3 = daily.
    ADD COLUMN digest smallint NOT NULL DEFAULT 3,
    ADD COLUMN digest_hour bigint NOT NULL DEFAULT 8;

-- One of a user, confirmed or not.
CREATE TABLE emails (
    user_id               uuid     NOT NULL PRIMARY KEY,
    -- With its domain in lower case.
    address               text     NOT NULL,
    confirmed             boolean  NOT NULL,
    -- Why nothing is sent there; NULL = something is.
    disabled              smallint,
    -- In a row, one for each mail.
    soft_bounces          bigint   NOT NULL,
    -- The last mail is among them.
    last_bounced          boolean  NOT NULL,
    -- What confirms it, or has confirmed it; all three or none.
    code_hash             bytea,
    code_since_unix_ms    bigint,
    code_tries            bigint,
    -- Only of users with a confirmed address that is not disabled, and who want digests.
    next_digest_unix_ms   bigint,
    claimed_until_unix_ms bigint   NOT NULL,
    -- Of the newest message that a digest has told of; 0 = none has.
    told_unix_ms          bigint   NOT NULL
);

CREATE INDEX emails_by_address ON emails (address, user_id);
-- When it may be claimed.
CREATE INDEX emails_ready ON emails (greatest(next_digest_unix_ms, claimed_until_unix_ms))
    WHERE next_digest_unix_ms IS NOT NULL;

-- Mails with a code that were sent: those of a day are counted, older ones go with the next mails.
CREATE TABLE confirmation_mails (
    mail_id      bigint NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id      uuid   NOT NULL,
    -- SHA-256 of the address in small letters.
    address_hash bytea  NOT NULL,
    sent_unix_ms bigint NOT NULL
);

CREATE INDEX confirmation_mails_by_user ON confirmation_mails (user_id, sent_unix_ms);
CREATE INDEX confirmation_mails_by_address ON confirmation_mails (address_hash, sent_unix_ms);
CREATE INDEX confirmation_mails_by_time ON confirmation_mails (sent_unix_ms);
