//! The statements.
//!
//! READ COMMITTED is enough, because whoever relies on a blob, or ends it, holds the lock of its row until
//! the commit, and looks at what else it depends on by statements that begin after it has the lock, and so
//! see all that was committed by those who had it before: whether something refers to the blob is asked
//! after [`LOCK_CANDIDATES`] and by another statement; and a reference is made, an upload finished with
//! a twin or a poster, or a receipt's time noted on a row that is locked and does not go. An upload is
//! locked in the same way by who finishes or ends it, and all beginnings of one owner by his id, so that
//! they are counted one after the other. Rows of several blobs are locked in the order of their ids, or
//! skipped; a circle that is left (an upload's poster and its twin) is broken by the server, and the
//! transaction made again.

/// One beginning of an owner at a time.
pub(super) const LOCK_OWNER: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1::text, 0))";

pub(super) const UPLOAD: &str = "
    SELECT upload_id, owner_id, purpose, size_bytes, source_sha256, blob_id, begun_unix_ms, finished
    FROM uploads WHERE owner_id = $1 AND upload_id = $2";

pub(super) const LOCK_UPLOAD: &str = "
    SELECT upload_id, owner_id, purpose, size_bytes, source_sha256, blob_id, begun_unix_ms, finished
    FROM uploads WHERE owner_id = $1 AND upload_id = $2 FOR UPDATE";

pub(super) const UNFINISHED: &str = "
    SELECT count(*) FROM (
        SELECT FROM uploads WHERE owner_id = $1 AND NOT finished LIMIT $2) AS unfinished";

/// Instead of what is there.
pub(super) const PUT_UPLOAD: &str = "
    INSERT INTO uploads (upload_id, owner_id, purpose, size_bytes, source_sha256, blob_id, begun_unix_ms, finished)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (owner_id, upload_id) DO UPDATE SET purpose = excluded.purpose,
        size_bytes = excluded.size_bytes, source_sha256 = excluded.source_sha256,
        blob_id = excluded.blob_id, begun_unix_ms = excluded.begun_unix_ms,
        finished = excluded.finished";

pub(super) const BLOBS: &str = "
    SELECT blob_id, owner_id, purpose, media_type, size_bytes, sha256, source_sha256, poster_id,
        created_unix_ms, kept_until_unix_ms, width, height, placeholder,
        small_media_type, small_width, small_height, small_size_bytes,
        large_media_type, large_width, large_height, large_size_bytes
    FROM blobs WHERE blob_id = ANY ($1) AND NOT going";

/// Keeps it and locks it.
pub(super) const KEEP: &str = "
    UPDATE blobs SET kept_until_unix_ms = greatest(kept_until_unix_ms, $2)
    WHERE blob_id = $1 AND NOT going
    RETURNING blob_id, owner_id, purpose, media_type, size_bytes, sha256, source_sha256, poster_id,
        created_unix_ms, kept_until_unix_ms, width, height, placeholder,
        small_media_type, small_width, small_height, small_size_bytes,
        large_media_type, large_width, large_height, large_size_bytes";

/// Keeps it and locks it.
pub(super) const KEEP_TWIN: &str = "
    UPDATE blobs SET kept_until_unix_ms = greatest(kept_until_unix_ms, $4)
    WHERE owner_id = $1 AND purpose = $2 AND source_sha256 = $3 AND NOT going
    RETURNING blob_id, owner_id, purpose, media_type, size_bytes, sha256, source_sha256, poster_id,
        created_unix_ms, kept_until_unix_ms, width, height, placeholder,
        small_media_type, small_width, small_height, small_size_bytes,
        large_media_type, large_width, large_height, large_size_bytes";

/// Answers the blobs that are there, and locks them.
pub(super) const LOCK_BLOBS: &str = "
    SELECT blob_id FROM blobs WHERE blob_id = ANY ($1) AND NOT going
    ORDER BY blob_id FOR NO KEY UPDATE";

/// Changes nothing if the owner has a twin of it, which was made a moment ago.
pub(super) const PUT_BLOB: &str = "
    INSERT INTO blobs (
        blob_id, owner_id, purpose, media_type, size_bytes, sha256, source_sha256, poster_id,
        created_unix_ms, kept_until_unix_ms, width, height, placeholder,
        small_media_type, small_width, small_height, small_size_bytes,
        large_media_type, large_width, large_height, large_size_bytes,
        going, to_check)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
        $21, false, true)
    ON CONFLICT (owner_id, purpose, source_sha256) WHERE NOT going DO NOTHING";

pub(super) const LEAVE: &str = "
    INSERT INTO leftovers (owner_id, upload_id, blob_id, since_unix_ms) VALUES ($1, $2, $3, $4)
    ON CONFLICT DO NOTHING";

pub(super) const GIVE_UP: &str = "
    WITH ended AS (
        DELETE FROM uploads
        WHERE owner_id = $1 AND upload_id = $2 AND blob_id = $3 AND NOT finished
        RETURNING owner_id, upload_id, blob_id
    )
    INSERT INTO leftovers (owner_id, upload_id, blob_id, since_unix_ms)
    SELECT owner_id, upload_id, blob_id, $4 FROM ended ON CONFLICT DO NOTHING";

/// The rows by their places, which are a look-up whatever the planner thinks of the limit. What is deleted
/// is the upload as it is once it is locked: with what it has become, if it was finished meanwhile.
pub(super) const END_UPLOADS: &str = "
    WITH ended AS (
        DELETE FROM uploads WHERE ctid = ANY (ARRAY (
            SELECT ctid FROM uploads WHERE begun_unix_ms < $1
            ORDER BY begun_unix_ms LIMIT $3 FOR UPDATE SKIP LOCKED))
        RETURNING owner_id, upload_id, blob_id
    ), left_over AS (
        INSERT INTO leftovers (owner_id, upload_id, blob_id, since_unix_ms)
        SELECT owner_id, upload_id, blob_id, $2 FROM ended ON CONFLICT DO NOTHING
    )
    SELECT count(*) FROM ended";

pub(super) const LEFTOVERS: &str = "
    SELECT owner_id, upload_id, blob_id,
        NOT EXISTS (SELECT FROM blobs b WHERE b.blob_id = l.blob_id OFFSET 0),
        NOT EXISTS (SELECT FROM uploads u
            WHERE u.owner_id = l.owner_id AND u.upload_id = l.upload_id OFFSET 0)
    FROM leftovers l WHERE since_unix_ms < $1 ORDER BY since_unix_ms LIMIT $2";

pub(super) const FORGET_LEFTOVER: &str = "
    DELETE FROM leftovers WHERE owner_id = $1 AND upload_id = $2 AND blob_id = $3";

/// The pictures of the kinds $1 and ids $2, locked.
pub(super) const LOCK_PICTURES: &str = "
    SELECT p.kind, p.id, p.version, p.blob_id
    FROM unnest($1::smallint[], $2::uuid[]) AS said (kind, id)
    JOIN pictures p ON p.kind = said.kind AND p.id = said.id
    ORDER BY p.kind, p.id FOR UPDATE OF p";

/// $1 to $4 = a row each. One of which a larger version was put meanwhile stays.
pub(super) const PUT_PICTURES: &str = "
    INSERT INTO pictures AS p (kind, id, version, blob_id)
    SELECT * FROM unnest($1::smallint[], $2::uuid[], $3::bigint[], $4::uuid[])
    ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, blob_id = excluded.blob_id
    WHERE excluded.version > p.version";

/// $1 to $3 = a row each, each once. What was removed stays so. The blobs of those that were removed now
/// are to be looked at.
pub(super) const PUT_EVENTS: &str = "
    WITH put AS (
        INSERT INTO event_references AS r (referrer, blob_id, removed)
        SELECT * FROM unnest($1::bytea[], $2::uuid[], $3::boolean[])
        ON CONFLICT (referrer, blob_id) DO UPDATE SET removed = true
        WHERE excluded.removed AND NOT r.removed
        RETURNING blob_id, removed
    )
    UPDATE blobs SET to_check = true
    WHERE blob_id = ANY (ARRAY (SELECT blob_id FROM put WHERE removed)) AND NOT going";

pub(super) const TO_CHECK: &str = "
    UPDATE blobs SET to_check = true WHERE blob_id = ANY ($1) AND NOT going";

/// $1 and $2 = a row each.
pub(super) const PUT_BARRIERS: &str = "
    INSERT INTO reference_barriers AS b (partition, as_of_unix_ms)
    SELECT * FROM unnest($1::bigint[], $2::bigint[])
    ON CONFLICT (partition) DO UPDATE SET as_of_unix_ms = excluded.as_of_unix_ms
    WHERE excluded.as_of_unix_ms > b.as_of_unix_ms";

pub(super) const BARRIER: &str = "
    SELECT count(*), min(as_of_unix_ms) FROM reference_barriers WHERE partition < $1";

/// Of the purpose $1, those that are kept until $2 at most.
pub(super) const LOCK_CANDIDATES: &str = "
    SELECT blob_id FROM blobs
    WHERE to_check AND purpose = $1 AND kept_until_unix_ms <= $2
    ORDER BY kept_until_unix_ms LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED";

/// Those of the blobs $1, which are locked, to which nothing refers.
pub(super) const UNREFERENCED: &str = "
    SELECT c.blob_id FROM unnest($1::uuid[]) AS c (blob_id)
    WHERE NOT EXISTS (SELECT FROM event_references r
            WHERE r.blob_id = c.blob_id AND NOT r.removed OFFSET 0)
        AND NOT EXISTS (SELECT FROM pictures p WHERE p.blob_id = c.blob_id OFFSET 0)
        AND NOT EXISTS (SELECT FROM blobs v WHERE v.poster_id = c.blob_id OFFSET 0)";

/// $2 = they go.
pub(super) const CHECKED: &str = "
    UPDATE blobs SET to_check = false, going = $2 WHERE blob_id = ANY ($1)";

pub(super) const GOING: &str = "
    SELECT blob_id FROM blobs WHERE going ORDER BY blob_id LIMIT $1";

pub(super) const FORGET_REFERENCES: &str = "
    DELETE FROM event_references WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM event_references WHERE blob_id = $1 LIMIT $2))
    AND EXISTS (SELECT FROM blobs WHERE blob_id = $1 AND going)";

/// The poster may be one to which nothing else refers now.
pub(super) const FORGET_BLOB: &str = "
    WITH forgotten AS (DELETE FROM blobs WHERE blob_id = $1 AND going RETURNING poster_id)
    UPDATE blobs SET to_check = true
    WHERE blob_id = ANY (ARRAY (SELECT poster_id FROM forgotten)) AND NOT going";
