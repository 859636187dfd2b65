//! The statements, one round trip each. Those of a transaction say so.
//!
//! READ COMMITTED: a statement sees what was committed before it began. Where it waits for a row, it
//! looks at the newest version of that row and at nothing else anew. So what decides is either in the
//! row that is changed (a version, a revision, a lease), or looked at by a statement that begins after
//! the lock is held.

/// The account of a name.
pub(super) const ACCOUNT: &str = "
    SELECT user_id, username, display_name, status_text, created_unix_ms, version, picture,
           password_hash
    FROM users WHERE username = $1";

/// One row: the account of a name, if there is one, and the milliseconds until all that its cell's
/// failed log-ins have taken will have come back.
pub(super) const ACCOUNT_TO_LOG_IN: &str = "
    SELECT u.user_id, u.username, u.display_name, u.status_text, u.created_unix_ms, u.version,
           u.picture, u.password_hash, taken.taken_ms
    FROM (SELECT coalesce(
        (SELECT ceil(extract(epoch FROM full_at - clock_timestamp()) * 1000)::bigint
         FROM failed_log_ins WHERE cell = $2), 0) AS taken_ms) taken
    LEFT JOIN users u ON u.username = $1";

/// Takes one from the budget of a cell: $2 ms come back later, and never more than $3 ms are taken.
pub(super) const NOTE_FAILED_LOG_IN: &str = "
    INSERT INTO failed_log_ins (cell, full_at)
    VALUES ($1, clock_timestamp() + $2 * interval '1 millisecond')
    ON CONFLICT (cell) DO UPDATE SET full_at = least(
        greatest(failed_log_ins.full_at, clock_timestamp()) + $2 * interval '1 millisecond',
        clock_timestamp() + $3 * interval '1 millisecond')";

pub(super) const CLEAR_FAILED_LOG_INS: &str = "DELETE FROM failed_log_ins WHERE cell = $1";

pub(super) const SEED: &str = "SELECT seed FROM failed_log_ins_seed";

/// Answers whether the account is new. Of two with one name, the later waits for the earlier.
pub(super) const CREATE_ACCOUNT: &str = "
    WITH created AS (
        INSERT INTO users (user_id, username, display_name, status_text, created_unix_ms, version,
                           password_hash)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (username) DO NOTHING
        RETURNING user_id, username
    ), found_by AS (
        INSERT INTO search_terms (whole, term, username)
        SELECT t.whole, t.term, created.username
        FROM created, unnest($8::boolean[], $9::bytea[]) AS t (whole, term)
    ), logged_in AS (
        INSERT INTO devices (user_id, device_id, name, created_unix_ms, refreshed_unix_ms,
                             family_hash, unused_hashes, used_hash, used_unix_ms, expires_unix_ms,
                             revision)
        SELECT created.user_id, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19 FROM created
    )
    SELECT EXISTS (SELECT FROM created)";

pub(super) const USERS: &str = "
    SELECT user_id, username, display_name, status_text, created_unix_ms, version, picture
    FROM users WHERE user_id = ANY ($1)";

/// Changes a user that is still at the version $2, and what the user is found by: terms that go and
/// terms that come, which have none in common. Answers whether it was.
pub(super) const UPDATE_USER: &str = "
    WITH room AS (
        SELECT $10::bytea IS NULL
            OR coalesce((SELECT max(id) FROM outbox) - (SELECT min(id) FROM outbox) + 1, 0) < $11
            AS is_there
    ), changed AS (
        UPDATE users SET display_name = $3, status_text = $4, picture = $9, version = version + 1
        WHERE user_id = $1 AND version = $2 AND (SELECT is_there FROM room)
        RETURNING user_id, username
    ), gone AS (
        DELETE FROM search_terms s
        USING changed, unnest($5::boolean[], $6::bytea[]) AS t (whole, term)
        WHERE s.whole = t.whole AND s.term = t.term AND s.username = changed.username
    ), found_by AS (
        INSERT INTO search_terms (whole, term, username)
        SELECT t.whole, t.term, changed.username
        FROM changed, unnest($7::boolean[], $8::bytea[]) AS t (whole, term)
    ), told AS (
        INSERT INTO outbox (user_id, payload)
        SELECT changed.user_id, $10 FROM changed WHERE $10::bytea IS NOT NULL
    )
    SELECT EXISTS (SELECT FROM changed)";

/// The array makes the users a look-up by name whatever the planner thinks of the limit.
pub(super) const SEARCH_SHORT: &str = "
    SELECT user_id, username, display_name, status_text, created_unix_ms, version, picture
    FROM users WHERE username = ANY (ARRAY (
        SELECT username FROM search_terms
        WHERE NOT whole AND term = $1 AND username > $2
        ORDER BY username LIMIT $3))
    ORDER BY username";

/// $1 = the prefix, $2 = above every term that begins with it.
pub(super) const SEARCH_LONG: &str = "
    SELECT user_id, username, display_name, status_text, created_unix_ms, version, picture
    FROM users WHERE username = ANY (ARRAY (
        SELECT DISTINCT username FROM search_terms
        WHERE whole AND term >= $1 AND term < $2 AND username > $3
        ORDER BY username LIMIT $4))
    ORDER BY username";

/// The first of the transaction that logs a device in: one log-in of a user at a time.
pub(super) const LOCK_USER: &str = "
    SELECT user_id FROM users WHERE user_id = $1 FOR NO KEY UPDATE";

/// The second: $12 = devices that a user may have, $13 = now. Answers whether there was room. The
/// device's own row stays if it has expired, so that its revision goes on; it counts as made anew.
pub(super) const LOG_IN_DEVICE: &str = "
    WITH expired AS (
        DELETE FROM devices
        WHERE user_id = $1 AND device_id <> $2 AND expires_unix_ms <= $13
    ), logged_in AS (
        INSERT INTO devices (user_id, device_id, name, created_unix_ms, refreshed_unix_ms,
                             family_hash, unused_hashes, used_hash, used_unix_ms, expires_unix_ms,
                             revision)
        SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11
        WHERE (SELECT count(*) FROM devices
               WHERE user_id = $1 AND device_id <> $2 AND expires_unix_ms > $13) < $12
        ON CONFLICT (user_id, device_id) DO UPDATE SET
            created_unix_ms = CASE WHEN devices.expires_unix_ms > $13
                THEN devices.created_unix_ms ELSE excluded.created_unix_ms END,
            name = excluded.name,
            refreshed_unix_ms = excluded.refreshed_unix_ms,
            family_hash = excluded.family_hash,
            unused_hashes = excluded.unused_hashes,
            used_hash = excluded.used_hash,
            used_unix_ms = excluded.used_unix_ms,
            expires_unix_ms = excluded.expires_unix_ms,
            revision = devices.revision + 1
        RETURNING 1
    )
    SELECT EXISTS (SELECT FROM logged_in)";

pub(super) const DEVICE: &str = "
    SELECT user_id, device_id, name, created_unix_ms, refreshed_unix_ms, family_hash,
           unused_hashes, used_hash, used_unix_ms, expires_unix_ms, revision
    FROM devices WHERE user_id = $1 AND device_id = $2";

pub(super) const DEVICES: &str = "
    SELECT user_id, device_id, name, created_unix_ms, refreshed_unix_ms, family_hash,
           unused_hashes, used_hash, used_unix_ms, expires_unix_ms, revision
    FROM devices WHERE user_id = $1 AND expires_unix_ms > $2
    ORDER BY created_unix_ms DESC, device_id DESC";

/// Of several at once at one revision, the first one's row is what the others find.
pub(super) const PUT_REFRESH: &str = "
    UPDATE devices SET family_hash = $4, unused_hashes = $5, used_hash = $6, used_unix_ms = $7,
        refreshed_unix_ms = $8, expires_unix_ms = $9, revision = revision + 1
    WHERE user_id = $1 AND device_id = $2 AND revision = $3";

/// Removes a device (at the revision $3, if given) and adds the fact $4, if there is room for it:
/// fewer than $5 wait. Answers (whether there was room, whether it was there). The number of the fact
/// is drawn while the user's row is locked: a later fact of the user has a higher one.
pub(super) const LOG_OUT_DEVICE: &str = "
    WITH room AS (
        SELECT coalesce((SELECT max(id) FROM outbox) - (SELECT min(id) FROM outbox) + 1, 0) < $5
            AS is_there
    ), locked AS MATERIALIZED (
        SELECT user_id FROM users
        WHERE user_id = $1 AND (SELECT is_there FROM room) FOR NO KEY UPDATE
    ), gone AS (
        DELETE FROM devices d USING locked
        WHERE d.user_id = locked.user_id AND d.device_id = $2
            AND ($3::bigint IS NULL OR d.revision = $3)
        RETURNING d.user_id
    ), told AS (
        INSERT INTO outbox (user_id, payload) SELECT gone.user_id, $4 FROM gone
    )
    SELECT (SELECT is_there FROM room), EXISTS (SELECT FROM gone)";

pub(super) const FACTS: &str = "SELECT id, user_id, payload FROM outbox ORDER BY id LIMIT $1";

pub(super) const REMOVE_FACTS: &str = "DELETE FROM outbox WHERE id = ANY ($1)";

/// Takes the lease for $1 if nobody has it, or writes it anew if less than half of $2 ms is left.
/// Answers whether $1 has it, for half of that at least. A lease that ends later than any can is one
/// from before the database's clock was set back, and counts for nothing.
pub(super) const HOLD_RELAY: &str = "
    WITH taken AS (
        UPDATE relay_lease
        SET holder = $1, expires_at = clock_timestamp() + $2 * interval '1 millisecond'
        WHERE expires_at <= clock_timestamp()
            OR expires_at > clock_timestamp() + $2 * interval '2 milliseconds'
            OR (holder = $1 AND expires_at <= clock_timestamp() + $2 * interval '0.5 milliseconds')
        RETURNING 1
    )
    SELECT EXISTS (SELECT FROM taken)
        OR EXISTS (SELECT FROM relay_lease WHERE holder = $1 AND expires_at > clock_timestamp()
            AND expires_at <= clock_timestamp() + $2 * interval '2 milliseconds')";

pub(super) const RELEASE_RELAY: &str = "
    UPDATE relay_lease SET expires_at = 'epoch' WHERE holder = $1";

/// In whole milliseconds since 1970.
pub(super) const NOW: &str = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
