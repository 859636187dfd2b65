//! The statements. Those of a change are made in one transaction, in this order; every other one is a
//! round trip by itself.
//!
//! READ COMMITTED: a statement sees what was committed before it began. What belongs to a group is
//! changed with the group's row locked only, and looked at by statements that begin after the lock is
//! held. A request is claimed before that, so that a repetition waits for the first one. Rows of the
//! outbox are locked in the order of their keys, so that nobody waits in a circle.

pub(super) const SECRET: &str = "SELECT secret FROM secrets";

// --- a change -----------------------------------------------------------------------------------------

/// Waits for another one with this id. Claims nothing if that was carried out.
pub(super) const CLAIM_REQUEST: &str = "
    INSERT INTO requests (actor_id, request_id, digest, group_id, version, seq, answer,
                          created_unix_ms)
    VALUES ($1, $2, $3, $4, 0, 0, '', $5)
    ON CONFLICT (actor_id, request_id) DO NOTHING";

pub(super) const REQUEST: &str = "
    SELECT digest, group_id, version, seq, answer FROM requests
    WHERE actor_id = $1 AND request_id = $2";

pub(super) const PUT_ANSWER: &str = "
    UPDATE requests SET group_id = $3, version = $4, answer = $5
    WHERE actor_id = $1 AND request_id = $2";

pub(super) const INVITATION_BY_TOKEN: &str = "
    SELECT group_id, invitation_id, created_by, created_unix_ms, expires_unix_ms, uses_max, uses
    FROM invitations WHERE token_hash = $1";

pub(super) const LOCK_GROUP: &str = "
    SELECT group_id, version, name, description, picture, settings, member_count, created_unix_ms
    FROM groups WHERE group_id = $1 FOR NO KEY UPDATE";

pub(super) const MEMBERS_OF: &str = "
    SELECT user_id, role, joined_unix_ms, joined_version
    FROM members WHERE group_id = $1 AND user_id = ANY ($2)";

/// Of the users $1, those who are in more than $2 groups.
pub(super) const FULL: &str = "
    SELECT u FROM unnest($1::uuid[]) AS u
    WHERE EXISTS (SELECT FROM members WHERE user_id = u OFFSET $2 LIMIT 1)";

pub(super) const SUCCESSOR: &str = "
    SELECT user_id, role, joined_unix_ms, joined_version
    FROM members WHERE group_id = $1 AND user_id <> $2
    ORDER BY role DESC, joined_version, user_id LIMIT 1";

pub(super) const INVITATIONS_GOOD: &str = "
    SELECT count(*) FROM invitations WHERE group_id = $1
        AND (expires_unix_ms = 0 OR expires_unix_ms > $2) AND (uses_max = 0 OR uses < uses_max)";

pub(super) const WAITING_OF: &str = "
    SELECT user_id FROM join_requests WHERE group_id = $1 AND user_id = ANY ($2)";

pub(super) const WAITING_COUNT: &str = "SELECT count(*) FROM join_requests WHERE group_id = $1";

pub(super) const OUTSTANDING_COUNT: &str = "SELECT count(*) FROM outbox WHERE group_id = $1";

pub(super) const PUT_GROUP: &str = "
    INSERT INTO groups (group_id, version, name, description, picture, settings, member_count,
                        created_unix_ms)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (group_id) DO UPDATE SET version = excluded.version, name = excluded.name,
        description = excluded.description, picture = excluded.picture,
        settings = excluded.settings, member_count = excluded.member_count";

/// $2 to $5 = a row each. Those that join by the version $6 begin a stint, and wait and have left no
/// more.
pub(super) const PUT_MEMBERS: &str = "
    WITH put AS (
        SELECT * FROM unnest($2::uuid[], $3::smallint[], $4::bigint[], $5::bigint[])
            AS m (user_id, role, joined_unix_ms, joined_version)
    ), joined AS (
        SELECT user_id FROM put WHERE joined_version = $6
    ), stint AS (
        INSERT INTO stints (group_id, user_id, joined_version) SELECT $1, user_id, $6 FROM joined
    ), past AS (
        DELETE FROM past_members p USING joined
        WHERE p.user_id = joined.user_id AND p.group_id = $1
    ), waiting AS (
        DELETE FROM join_requests r USING joined
        WHERE r.group_id = $1 AND r.user_id = joined.user_id
    )
    INSERT INTO members (group_id, user_id, role, joined_unix_ms, joined_version)
    SELECT $1, user_id, role, joined_unix_ms, joined_version FROM put
    ON CONFLICT (group_id, user_id) DO UPDATE SET role = excluded.role";

/// The user $2 leaves by the version $3.
pub(super) const REMOVE_MEMBER: &str = "
    WITH gone AS (
        DELETE FROM members WHERE group_id = $1 AND user_id = $2
    ), stint AS (
        UPDATE stints SET left_version = $3
        WHERE group_id = $1 AND user_id = $2 AND left_version IS NULL
    )
    INSERT INTO past_members (user_id, group_id, name, picture, left_version, left_unix_ms)
    VALUES ($2, $1, $4, $5, $3, $6)
    ON CONFLICT (user_id, group_id) DO UPDATE SET name = excluded.name,
        picture = excluded.picture, left_version = excluded.left_version,
        left_unix_ms = excluded.left_unix_ms";

/// All but the $2 that the user left last. The array makes them a look-up by key, whatever the planner
/// thinks.
pub(super) const TRIM_PAST: &str = "
    DELETE FROM past_members WHERE user_id = $1 AND group_id = ANY (ARRAY (
        SELECT group_id FROM past_members WHERE user_id = $1
        ORDER BY left_unix_ms DESC, group_id OFFSET $2))";

pub(super) const PUT_OUTBOX: &str = "
    INSERT INTO outbox (group_id, version, payload, actor_id, request_id, due_unix_ms, tries)
    VALUES ($1, $2, $3, $4, $5, $6, 0)";

/// So there are never more than the limit of those that are good.
pub(super) const DELETE_ENDED_INVITATIONS: &str = "
    DELETE FROM invitations WHERE group_id = $1
        AND ((expires_unix_ms <> 0 AND expires_unix_ms <= $2)
            OR (uses_max <> 0 AND uses >= uses_max))";

/// The same token comes from the same request only, when that was forgotten.
pub(super) const PUT_INVITATION: &str = "
    INSERT INTO invitations (invitation_id, group_id, token_hash, created_by, created_unix_ms,
                             expires_unix_ms, uses_max, uses)
    VALUES ($1, $2, $3, $4, $5, $6, $7, 0)
    ON CONFLICT (token_hash) DO UPDATE SET invitation_id = excluded.invitation_id,
        group_id = excluded.group_id, created_by = excluded.created_by,
        created_unix_ms = excluded.created_unix_ms, expires_unix_ms = excluded.expires_unix_ms,
        uses_max = excluded.uses_max, uses = excluded.uses";

pub(super) const USE_INVITATION: &str = "
    UPDATE invitations SET uses = uses + 1 WHERE invitation_id = $1";

pub(super) const REVOKE_INVITATION: &str = "
    DELETE FROM invitations WHERE invitation_id = $1 AND group_id = $2";

pub(super) const PUT_WAITING: &str = "
    INSERT INTO join_requests (group_id, user_id, requested_unix_ms) VALUES ($1, $2, $3)";

pub(super) const END_WAITING: &str = "
    DELETE FROM join_requests WHERE group_id = $1 AND user_id = $2";

/// Of a group that has ended.
pub(super) const END_GROUP: &str = "
    WITH waiting AS (DELETE FROM join_requests WHERE group_id = $1)
    DELETE FROM invitations WHERE group_id = $1";

// --- reads --------------------------------------------------------------------------------------------

pub(super) const SEQ: &str = "
    SELECT seq FROM requests WHERE actor_id = $1 AND request_id = $2";

pub(super) const GROUP: &str = "
    SELECT g.group_id, g.version, g.name, g.description, g.picture, g.settings, g.member_count,
           g.created_unix_ms, m.role
    FROM groups g JOIN members m ON m.group_id = g.group_id
    WHERE m.group_id = $1 AND m.user_id = $2";

/// The array makes the groups a look-up by key, whatever the planner thinks of the limit.
pub(super) const GROUPS: &str = "
    SELECT g.group_id, g.version, g.name, g.description, g.picture, g.settings, g.member_count,
           g.created_unix_ms, m.role
    FROM groups g JOIN members m ON m.group_id = g.group_id AND m.user_id = $1
    WHERE g.group_id = ANY (ARRAY (
        SELECT group_id FROM members WHERE user_id = $1 AND group_id > $2
        ORDER BY group_id LIMIT $3))
    ORDER BY g.group_id";

/// The version of a group of the user $2 and a page of its members, in one snapshot.
pub(super) const MEMBERS: &str = "
    SELECT page.user_id, page.role, page.joined_unix_ms, page.joined_version, g.version
    FROM groups g JOIN members own ON own.group_id = g.group_id AND own.user_id = $2
    LEFT JOIN LATERAL (
        SELECT user_id, role, joined_unix_ms, joined_version FROM members
        WHERE group_id = $1 AND user_id > $3
        ORDER BY user_id LIMIT $4) page ON true
    WHERE g.group_id = $1
    ORDER BY page.user_id";

pub(super) const INVITATIONS: &str = "
    SELECT invitation_id, created_by, created_unix_ms, expires_unix_ms, uses_max, uses
    FROM invitations WHERE group_id = $1
        AND (expires_unix_ms = 0 OR expires_unix_ms > $2) AND (uses_max = 0 OR uses < uses_max)
    ORDER BY created_unix_ms DESC, invitation_id";

pub(super) const JOIN_REQUESTS: &str = "
    SELECT user_id, requested_unix_ms FROM join_requests
    WHERE group_id = $1 AND user_id > $2 ORDER BY user_id LIMIT $3";

pub(super) const SNIPPETS: &str = "
    SELECT g.group_id, g.name, g.picture, g.member_count, g.version
    FROM members m JOIN groups g ON g.group_id = m.group_id
    WHERE m.user_id = $1 AND m.group_id = ANY ($2)
    UNION ALL
    SELECT group_id, name, picture, 0, left_version FROM past_members
    WHERE user_id = $1 AND group_id = ANY ($2)";

// --- what the log is told, and what it has told -----------------------------------------------------------

pub(super) const OUTSTANDING: &str = "
    SELECT group_id, version, payload FROM outbox WHERE group_id = $1 ORDER BY version";

/// Whether this process may look for what is due: one at a time does.
pub(super) const MAY_TAKE_DUE: &str = "SELECT pg_try_advisory_xact_lock(7133701905418227712)";

/// $1 = now, $3 = the first pause, $4 = the longest one.
pub(super) const TAKE_DUE: &str = "
    WITH due AS MATERIALIZED (
        SELECT DISTINCT group_id FROM (
            SELECT group_id FROM outbox WHERE due_unix_ms <= $1
            ORDER BY due_unix_ms LIMIT $2) AS first
    ), locked AS MATERIALIZED (
        SELECT group_id, version FROM outbox
        WHERE group_id = ANY (ARRAY (SELECT group_id FROM due))
        ORDER BY group_id, version FOR UPDATE
    )
    UPDATE outbox o SET tries = o.tries + 1,
        due_unix_ms = $1 + least($4, $3 * (1::bigint << least(o.tries + 1, 20)::int))
    FROM locked WHERE o.group_id = locked.group_id AND o.version = locked.version
    RETURNING o.group_id";

/// $1 = groups, $2 = when what waits of them is due.
pub(super) const PUT_BACK: &str = "
    WITH locked AS MATERIALIZED (
        SELECT group_id, version FROM outbox WHERE group_id = ANY ($1)
        ORDER BY group_id, version FOR UPDATE
    )
    UPDATE outbox o SET tries = 0, due_unix_ms = $2
    FROM locked WHERE o.group_id = locked.group_id AND o.version = locked.version";

/// The rows by their places, which are a look-up whatever the planner thinks of the limit.
pub(super) const FORGET_REQUESTS: &str = "
    DELETE FROM requests WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM requests WHERE created_unix_ms < $1
        ORDER BY created_unix_ms LIMIT $2 FOR UPDATE SKIP LOCKED))";

pub(super) const ROSTER: &str = "
    SELECT user_id, joined_version, left_version,
        coalesce((SELECT deferred_seq > 0 FROM groups WHERE group_id = $1), false)
    FROM stints WHERE group_id = $1";

/// $1 and $2 = a row each. Groups are locked in the order of their keys.
pub(super) const NOTE_DEFERRED: &str = "
    WITH locked AS MATERIALIZED (
        SELECT g.group_id, seen.seq
        FROM unnest($1::uuid[], $2::bigint[]) AS seen (group_id, seq)
        JOIN groups g ON g.group_id = seen.group_id AND g.deferred_seq = 0
        ORDER BY g.group_id FOR NO KEY UPDATE OF g
    )
    UPDATE groups g SET deferred_seq = locked.seq
    FROM locked WHERE g.group_id = locked.group_id";

/// $1 to $3 = a row each: the versions of groups, and where their events are.
pub(super) const NOTE_SEQUENCED: &str = "
    WITH locked AS MATERIALIZED (
        SELECT o.group_id, o.version, o.actor_id, o.request_id, seen.seq
        FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS seen (group_id, version, seq)
        JOIN outbox o ON o.group_id = seen.group_id AND o.version = seen.version
        ORDER BY o.group_id, o.version FOR UPDATE OF o
    ), gone AS (
        DELETE FROM outbox o USING locked
        WHERE o.group_id = locked.group_id AND o.version = locked.version
    )
    UPDATE requests r SET seq = locked.seq FROM locked
    WHERE r.actor_id = locked.actor_id AND r.request_id = locked.request_id";

/// $1 and $2 = a row each.
pub(super) const FORGET_STINTS: &str = "
    DELETE FROM stints s
    USING unnest($1::uuid[], $2::bigint[]) AS done (group_id, version)
    WHERE s.group_id = done.group_id AND s.left_version <= done.version";

/// Ended groups whose last event was fanned out.
pub(super) const FORGET_GROUPS: &str = "
    DELETE FROM groups g
    USING unnest($1::uuid[], $2::bigint[]) AS done (group_id, version)
    WHERE g.group_id = done.group_id AND g.member_count = 0 AND g.version <= done.version
        AND NOT EXISTS (SELECT FROM outbox o WHERE o.group_id = g.group_id)";
