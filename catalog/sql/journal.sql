-- lock --
-- One writer at a time, whatever the lease says: `capstan db journal --now` writes beside the tape server that holds it.
SELECT pg_advisory_xact_lock(hashtext('capstan.journal'))

-- draw_number --
-- By itself and never taken back: a file that was written under it before a crash is not overwritten by another.
SELECT nextval(pg_get_serial_sequence('journal_segment', 'number'))

-- last_segment --
-- The one that grows, or the last closed one, behind which the next begins.
SELECT number, first_seq, last_seq, entries, until_transaction, until_seq, bytes, adler32, path, file,
       closed_at IS NOT NULL AS closed, extract(epoch FROM capstan_now() - made_at) AS age_seconds
FROM journal_segment WHERE CAST(:below AS bigint) IS NULL OR number < CAST(:below AS bigint)
ORDER BY number DESC LIMIT 1

-- entries --
-- As with events: below the oldest transaction under way everything is final, so (transaction, seq) is an order into
-- which nothing comes later. The order of seq alone is not: a lower one may be committed after a higher one was read.
SELECT seq, transaction, kind, id, removed, entry::text AS entry
FROM journal
WHERE (transaction, seq) > (CAST(:transaction AS xid8), CAST(:seq AS bigint))
  AND (CAST(:until_transaction AS xid8) IS NULL
       OR (transaction, seq) <= (CAST(:until_transaction AS xid8), CAST(:until_seq AS bigint)))
  AND transaction < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY transaction, seq LIMIT :limit

-- record --
-- Behind the rename and its fsync: what the row says is on the disk.
INSERT INTO journal_segment (number, first_seq, last_seq, entries, until_transaction, until_seq, bytes, adler32, path,
                             closed_at)
VALUES (:number, :first_seq, :last_seq, :entries, CAST(:until_transaction AS xid8), :until_seq, :bytes, :adler32, :path,
        CASE WHEN :closed THEN capstan_now() END)
ON CONFLICT (number) DO UPDATE
SET first_seq = excluded.first_seq, last_seq = excluded.last_seq, entries = excluded.entries,
    until_transaction = excluded.until_transaction, until_seq = excluded.until_seq, bytes = excluded.bytes,
    adler32 = excluded.adler32, path = excluded.path, closed_at = excluded.closed_at
WHERE journal_segment.closed_at IS NULL

-- close --
-- It grows no more: from now on its bytes are what will be archived.
UPDATE journal_segment SET closed_at = capstan_now() WHERE number = :number AND closed_at IS NULL

-- unarchived --
-- Closed, and not yet a file of the namespace; the oldest first.
SELECT number, first_seq, last_seq, entries, until_transaction, until_seq, bytes, adler32, path, file,
       true AS closed, 0.0 AS age_seconds
FROM journal_segment WHERE closed_at IS NOT NULL AND file IS NULL ORDER BY number LIMIT :limit

-- archived --
-- The file of the segment; a repeat finds the same one.
UPDATE journal_segment SET file = :file WHERE number = :number

-- spent --
-- The last of the segments that are safe on tape with all before them: up to its end the rows are needed no more.
SELECT number, until_transaction, until_seq, path FROM journal_segment s
WHERE s.closed_at IS NOT NULL AND s.number < coalesce(
    (SELECT min(number) FROM journal_segment
     WHERE number >= :from AND (closed_at IS NULL OR file IS NULL OR NOT file_is_safe(file))), 9223372036854775807)
ORDER BY number DESC LIMIT 1

-- oldest_row --
-- Whether there is anything to delete, without counting.
SELECT transaction, seq FROM journal ORDER BY transaction, seq LIMIT 1

-- holding --
-- The first segment that still has rows: where `spent` begins to look, so that years of segments are not asked for.
SELECT coalesce((SELECT min(number) FROM journal_segment
                 WHERE (until_transaction, until_seq) >= (CAST(:transaction AS xid8), CAST(:seq AS bigint))), 0)

-- delete_rows --
-- In chunks: an open writer holds events and this very journal back.
DELETE FROM journal WHERE (transaction, seq) IN (
    SELECT transaction, seq FROM journal
    WHERE (transaction, seq) <= (CAST(:transaction AS xid8), CAST(:seq AS bigint))
    ORDER BY transaction, seq LIMIT :limit)

-- own_directories --
-- Where the segments themselves lie: changes below are no news.
SELECT n.id FROM node n WHERE n.name = :first AND n.parent = (SELECT id FROM node WHERE parent IS NULL)
UNION ALL
SELECT m.id FROM node n JOIN node m ON m.parent = n.id
WHERE n.name = :first AND n.parent = (SELECT id FROM node WHERE parent IS NULL) AND m.name = :second

-- has_storage_class --
-- A site may have none: then the configured directory is all there is.
SELECT EXISTS (SELECT FROM storage_class WHERE name = :name)
