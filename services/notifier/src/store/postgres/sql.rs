//! The statements.
//!
//! READ COMMITTED is enough. What is to be decided by rows that may not be there yet is decided under an
//! advisory lock until the commit: registrations of a token by [`LOCK_TOKEN`], registrations and log-outs by
//! one that registrations share ([`SHARE_LOG_OUTS`], [`LOCK_LOG_OUTS`]), a user's preferences and address by
//! [`LOCK_USER`], mails to an address by [`LOCK_ADDRESS`]; a statement that begins after it has the lock sees
//! all that was committed by those who had it before. Where a row is there, its lock is enough: of digests
//! and reports.
//!
//! Rows that are chosen by an inner query are locked by it, or what made them be chosen is asked again of
//! the row as it is then, so none is changed or removed that somebody else has changed meanwhile.

/// The key of the lock that log-outs hold: any number that no other lock has.
pub(super) const LOG_OUTS: i64 = 0x6e6f_7469_6669_6572;

/// $1 = [`LOG_OUTS`]. Many registrations at a time.
pub(super) const SHARE_LOG_OUTS: &str = "SELECT pg_advisory_xact_lock_shared($1)";

/// $1 = [`LOG_OUTS`]. A batch of log-outs and no registration.
pub(super) const LOCK_LOG_OUTS: &str = "SELECT pg_advisory_xact_lock($1)";

/// $1 = the token's hash.
pub(super) const LOCK_TOKEN: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended(encode($1, 'hex'), 1))";

pub(super) const LOCK_USER: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1::text, 2))";

/// $1 = the address's hash. After the user's lock.
pub(super) const LOCK_ADDRESS: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended(encode($1, 'hex'), 3))";

// --- targets -----------------------------------------------------------------------------------------

pub(super) const IS_FORGOTTEN: &str = "
    SELECT EXISTS (SELECT FROM forgotten_devices WHERE user_id = $1 AND device_id = $2)";

/// Another device has the token $1 no more.
pub(super) const MOVE_TARGET: &str = "
    DELETE FROM targets WHERE token_hash = $1 AND NOT (user_id = $2 AND device_id = $3)";

pub(super) const PUT_TARGET: &str = "
    INSERT INTO targets
        (token_hash, user_id, device_id, kind, token, topic, sandbox, p256dh, auth)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (user_id, device_id) DO UPDATE SET token_hash = excluded.token_hash,
        kind = excluded.kind, token = excluded.token, topic = excluded.topic,
        sandbox = excluded.sandbox, p256dh = excluded.p256dh, auth = excluded.auth";

pub(super) const REMOVE_TARGET: &str = "DELETE FROM targets WHERE user_id = $1 AND device_id = $2";

/// $1 to $3 = a row each. Unless the device has another one meanwhile.
pub(super) const FORGET_TARGETS: &str = "
    DELETE FROM targets t USING unnest($1::bytea[], $2::uuid[], $3::uuid[])
        AS gone (token_hash, user_id, device_id)
    WHERE t.token_hash = ANY ($1) AND t.token_hash = gone.token_hash
        AND t.user_id = gone.user_id AND t.device_id = gone.device_id";

/// Of the users $1, by the provider $2, at most $3 of each.
pub(super) const TARGETS: &str = "
    SELECT t.* FROM unnest($1::uuid[]) AS asked (user_id)
    CROSS JOIN LATERAL (
        SELECT user_id, device_id, kind, token, topic, sandbox, p256dh, auth FROM targets t
        WHERE t.user_id = asked.user_id AND kind = $2 ORDER BY device_id LIMIT $3) AS t";

/// $1 and $2 = a row each, $3 = now.
pub(super) const FORGET_DEVICES: &str = "
    INSERT INTO forgotten_devices (user_id, device_id, since_unix_ms)
    SELECT user_id, device_id, $3 FROM unnest($1::uuid[], $2::uuid[]) AS gone (user_id, device_id)
    ON CONFLICT (user_id, device_id) DO NOTHING";

/// $1 and $2 = a row each.
pub(super) const REMOVE_TARGETS: &str = "
    DELETE FROM targets t USING unnest($1::uuid[], $2::uuid[]) AS gone (user_id, device_id)
    WHERE t.user_id = ANY ($1) AND t.user_id = gone.user_id AND t.device_id = gone.device_id";

/// Those of before $1, at most $2.
pub(super) const CLEAN_FORGOTTEN: &str = "
    DELETE FROM forgotten_devices WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM forgotten_devices WHERE since_unix_ms < $1
        ORDER BY since_unix_ms LIMIT $2 FOR UPDATE SKIP LOCKED))";

// --- preferences -------------------------------------------------------------------------------------

/// Of the users $1, in their order; of who has none, the columns are NULL.
pub(super) const PREFERENCES: &str = "
    SELECT p.* FROM unnest($1::uuid[]) WITH ORDINALITY AS asked (user_id, place)
    LEFT JOIN LATERAL (
        SELECT push, preview, mentions_pierce_mute, quiet, quiet_from_minute, quiet_to_minute,
            time_zone, version, digest, digest_hour
        FROM preferences p WHERE p.user_id = asked.user_id OFFSET 0) AS p ON true
    ORDER BY place";

pub(super) const PUT_PREFERENCES: &str = "
    INSERT INTO preferences (user_id, push, preview, mentions_pierce_mute, quiet,
        quiet_from_minute, quiet_to_minute, time_zone, version, digest, digest_hour)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
    ON CONFLICT (user_id) DO UPDATE SET push = excluded.push, preview = excluded.preview,
        mentions_pierce_mute = excluded.mentions_pierce_mute, quiet = excluded.quiet,
        quiet_from_minute = excluded.quiet_from_minute, quiet_to_minute = excluded.quiet_to_minute,
        time_zone = excluded.time_zone, version = excluded.version, digest = excluded.digest,
        digest_hour = excluded.digest_hour";

// --- who was told of what ----------------------------------------------------------------------------

/// $1 to $3 = a row each, in their order.
pub(super) const TOLD: &str = "
    SELECT coalesce(t.seq, 0), coalesce(t.read_seq, 0)
    FROM unnest($1::uuid[], $2::uuid[], $3::bytea[])
        WITH ORDINALITY AS asked (user_id, device_id, conversation_id, place)
    LEFT JOIN LATERAL (
        SELECT seq, read_seq FROM told t
        WHERE t.user_id = asked.user_id AND t.device_id = asked.device_id
            AND t.conversation_id = asked.conversation_id OFFSET 0) AS t ON true
    ORDER BY place";

/// $1 to $5 = a row each, each once; $6 = now, $7 = by how much the time of a row moves at once.
pub(super) const TELL: &str = "
    INSERT INTO told AS t (user_id, device_id, conversation_id, seq, read_seq, changed_unix_ms)
    SELECT *, $6::bigint FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::bigint[], $5::bigint[])
    ON CONFLICT (user_id, device_id, conversation_id) DO UPDATE SET
        seq = greatest(t.seq, excluded.seq),
        read_seq = greatest(t.read_seq, excluded.read_seq),
        changed_unix_ms = CASE WHEN excluded.changed_unix_ms > t.changed_unix_ms
            THEN excluded.changed_unix_ms + $7::bigint ELSE t.changed_unix_ms END
    WHERE excluded.seq > t.seq OR excluded.read_seq > t.read_seq
        OR excluded.changed_unix_ms > t.changed_unix_ms";

/// Of before $1, at most $2. Who is being told again at this moment is left.
pub(super) const FORGET_TOLD: &str = "
    DELETE FROM told WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM told WHERE changed_unix_ms < $1
        ORDER BY changed_unix_ms LIMIT $2 FOR UPDATE SKIP LOCKED))";

// --- what is to come later ---------------------------------------------------------------------------

/// $1 to $5 = a row each, each once. The payload is that of the larger seq. What is put off anew is nobody's
/// claim any more, and its time is the new one: whoever has claimed it has put it into the log, where it was
/// read and put off once more.
pub(super) const HOLD: &str = "
    INSERT INTO held AS h
        (user_id, conversation_id, seq, due_unix_ms, payload, claimed_until_unix_ms)
    SELECT *, 0 FROM unnest($1::uuid[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bytea[])
    ON CONFLICT (user_id, conversation_id) DO UPDATE SET
        payload = CASE WHEN excluded.seq >= h.seq THEN excluded.payload ELSE h.payload END,
        seq = greatest(h.seq, excluded.seq),
        due_unix_ms = CASE WHEN h.claimed_until_unix_ms > 0 THEN excluded.due_unix_ms
            ELSE least(h.due_unix_ms, excluded.due_unix_ms) END,
        claimed_until_unix_ms = 0";

/// What may be claimed at $1, until $2, at most $3.
pub(super) const CLAIM_HELD: &str = "
    UPDATE held SET claimed_until_unix_ms = $2
    WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM held WHERE greatest(due_unix_ms, claimed_until_unix_ms) <= $1
        ORDER BY greatest(due_unix_ms, claimed_until_unix_ms) LIMIT $3
        FOR UPDATE SKIP LOCKED))
    RETURNING user_id, conversation_id, seq, due_unix_ms, payload";

/// $1 and $2 = a row each, claimed until $3.
pub(super) const FORGET_HELD: &str = "
    DELETE FROM held WHERE ctid = ANY (ARRAY (
        SELECT h.ctid FROM unnest($1::uuid[], $2::bytea[]) AS gone (user_id, conversation_id)
        CROSS JOIN LATERAL (
            SELECT h.ctid FROM held h WHERE h.user_id = gone.user_id
                AND h.conversation_id = gone.conversation_id OFFSET 0) AS h))
    AND claimed_until_unix_ms = $3";

// --- mail --------------------------------------------------------------------------------------------

pub(super) const EMAIL: &str = "
    SELECT user_id, address, confirmed, disabled, soft_bounces, code_hash, code_since_unix_ms,
        code_tries, next_digest_unix_ms, claimed_until_unix_ms, last_bounced, told_unix_ms
    FROM emails WHERE user_id = $1";

/// Of the users $1, in the order of their ids.
pub(super) const LOCK_EMAILS: &str = "
    SELECT user_id, address, confirmed, disabled, soft_bounces, code_hash, code_since_unix_ms,
        code_tries, next_digest_unix_ms, claimed_until_unix_ms, last_bounced, told_unix_ms
    FROM emails WHERE user_id = ANY ($1) ORDER BY user_id FOR UPDATE";

pub(super) const PUT_EMAIL: &str = "
    INSERT INTO emails (user_id, address, confirmed, disabled, soft_bounces, code_hash,
        code_since_unix_ms, code_tries, next_digest_unix_ms, claimed_until_unix_ms,
        last_bounced, told_unix_ms)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    ON CONFLICT (user_id) DO UPDATE SET address = excluded.address,
        confirmed = excluded.confirmed, disabled = excluded.disabled,
        soft_bounces = excluded.soft_bounces, code_hash = excluded.code_hash,
        code_since_unix_ms = excluded.code_since_unix_ms, code_tries = excluded.code_tries,
        next_digest_unix_ms = excluded.next_digest_unix_ms,
        claimed_until_unix_ms = excluded.claimed_until_unix_ms,
        last_bounced = excluded.last_bounced, told_unix_ms = excluded.told_unix_ms";

pub(super) const REMOVE_EMAIL: &str = "DELETE FROM emails WHERE user_id = $1";

/// The newest $3 since $2, the newest first.
pub(super) const MAILS_OF_USER: &str = "
    SELECT sent_unix_ms FROM confirmation_mails
    WHERE user_id = $1 AND sent_unix_ms > $2 ORDER BY sent_unix_ms DESC LIMIT $3";

/// The newest $3 since $2, the newest first.
pub(super) const MAILS_TO_ADDRESS: &str = "
    SELECT sent_unix_ms FROM confirmation_mails
    WHERE address_hash = $1 AND sent_unix_ms > $2 ORDER BY sent_unix_ms DESC LIMIT $3";

pub(super) const COUNT_MAIL: &str = "
    INSERT INTO confirmation_mails (user_id, address_hash, sent_unix_ms) VALUES ($1, $2, $3)";

/// Those up to $1, at most $2.
pub(super) const CLEAN_MAILS: &str = "
    DELETE FROM confirmation_mails WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM confirmation_mails WHERE sent_unix_ms <= $1
        ORDER BY sent_unix_ms LIMIT $2 FOR UPDATE SKIP LOCKED))";

pub(super) const USERS_OF_EMAIL: &str =
    "SELECT user_id FROM emails WHERE address = $1 ORDER BY user_id LIMIT $2";

/// What may be claimed at $1, until $2, at most $3.
pub(super) const CLAIM_DIGESTS: &str = "
    UPDATE emails SET claimed_until_unix_ms = $2
    WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM emails WHERE next_digest_unix_ms IS NOT NULL
            AND greatest(next_digest_unix_ms, claimed_until_unix_ms) <= $1
        ORDER BY greatest(next_digest_unix_ms, claimed_until_unix_ms) LIMIT $3
        FOR UPDATE SKIP LOCKED))
    RETURNING user_id, address, next_digest_unix_ms, told_unix_ms";
