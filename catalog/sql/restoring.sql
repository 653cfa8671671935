-- new_incarnation --
-- Positions of events, and stores that look at it, see that this is another life of the same catalog.
UPDATE catalog_identity SET incarnation = :incarnation RETURNING id

-- sequences --
-- Every identity sequence of the database, the job server's too: what the lost life has given out must not come again.
-- The ids that grow with the files leap by far; ids that people type, and those of four bytes, by what a life may use.
SELECT n.nspname AS schema, t.relname AS table, a.attname AS column, format_type(a.atttypid, NULL) AS type,
       format('%I.%I', sn.nspname, s.relname) AS sequence
FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
JOIN pg_namespace sn ON sn.oid = s.relnamespace
JOIN pg_class t ON t.oid = d.refobjid JOIN pg_namespace n ON n.oid = t.relnamespace
JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
ORDER BY 1, 2

-- raise_sequence --
-- From the sequence itself, which is never behind its rows: no dump takes a number back.
SELECT setval(CAST(:sequence AS regclass),
              greatest(coalesce(pg_sequence_last_value(CAST(:sequence AS regclass)), 0) + CAST(:leap AS bigint),
                       CAST(:floor AS bigint)))

-- life_lost --
-- What lies between the last id that this catalog knows of and the first of the new life, which begins behind :passed.
INSERT INTO lost_life (first_file, last_file)
SELECT coalesce(pg_sequence_last_value(CAST(:sequence AS regclass)), 0) + 1,
       greatest(coalesce(pg_sequence_last_value(CAST(:sequence AS regclass)), 0), CAST(:passed AS bigint))
       + CAST(:leap AS bigint)
ON CONFLICT (first_file) DO UPDATE SET last_file = greatest(lost_life.last_file, excluded.last_file)

-- puts_under_way --
-- Ids that were drawn and have no row: a dump has a snapshot of the rows, but the sequence as it was later, so puts that
-- were committed in between or were under way are of the lost life too. So are the ids of some that were removed for
-- good before: no segment tells that they are live, and no tape has them behind the end that the backup knows.
WITH last AS (
    SELECT coalesce(pg_sequence_last_value('file_id_seq'), 0) AS id
), from_here AS (
    SELECT greatest(id - CAST(:ids AS bigint), 0) AS id FROM last
), given AS (
    SELECT id FROM from_here
    UNION SELECT f.id FROM file f WHERE f.id > (SELECT id FROM from_here)
    UNION SELECT j.id FROM journal j WHERE j.kind = 'file' AND j.id > (SELECT id FROM from_here)
), gap AS (
    SELECT id + 1 AS first, lead(id, 1, (SELECT id FROM last) + 1) OVER (ORDER BY id) - 1 AS last FROM given
)
INSERT INTO lost_life (first_file, last_file)
SELECT first, last FROM gap WHERE first <= last
  AND last > coalesce((SELECT l.last_file FROM lost_life l WHERE l.first_file <= gap.first
                       ORDER BY l.first_file DESC LIMIT 1), 0)
ON CONFLICT (first_file) DO UPDATE SET last_file = greatest(lost_life.last_file, excluded.last_file)

-- volumes_unverified --
-- Their tapes may be ahead of the backup: nothing is written before their end was found on the tape.
UPDATE volume SET end_verified = false WHERE state NOT IN ('blank', 'broken')

-- live_mounts --
-- Of the life that is over; each is ended as a mount that broke off.
SELECT epoch FROM mount ORDER BY epoch

-- reservations_gone --
-- Nobody's any more. What bytes there are for them, the cache servers find and put aside.
DELETE FROM reservation

-- replicas_doubted --
-- Registered anew: they count again once their cache server has compared and checksummed them.
UPDATE replica SET checked = false WHERE checked

-- known_segments --
-- All that stands in a closed segment was committed before this catalog wrote it down.
SELECT id, coalesce((SELECT max(number) FROM journal_segment WHERE closed_at IS NOT NULL), 0) AS number
FROM catalog_identity

-- paths_of --
-- Of what was there at the backup.
SELECT id, node_path(id) AS path FROM node WHERE id = ANY(CAST(:nodes AS bigint[]))

-- cache_servers_back --
-- Those that registered after the backup, as far as the journal tells: by their name. The rest they say when they come.
INSERT INTO cache_server (name, url, root_id, host, root, capacity_bytes, heartbeat_at)
SELECT name, '', '', '', '', 0, '-infinity' FROM unnest(CAST(:servers AS text[])) AS t (name)
ON CONFLICT DO NOTHING

-- replicas_back --
-- The journal's word is not the disk's: they count once their cache server has compared and checksummed them.
INSERT INTO replica (id, file, cache_server, size, origin, checked)
SELECT id, file, cache_server, size, 'put', false
FROM unnest(CAST(:ids AS bigint[]), CAST(:files AS bigint[]), CAST(:servers AS text[]), CAST(:sizes AS bigint[]))
     AS t (id, file, cache_server, size)
ON CONFLICT DO NOTHING

-- count_space --
-- With the reservations their share of the guarded number went.
UPDATE cache_server s SET heartbeat_at = '-infinity', wanted_bytes = 0, taken_bytes = coalesce(
    (SELECT sum(r.size) FROM replica r
     WHERE r.cache_server = s.name AND r.state IN ('on_disk', 'evicting', 'quarantined')), 0)

-- leases_over --
-- The numbers go on beyond what holders of the lost life may still carry.
UPDATE lease SET expires_at = capstan_now(), number = number + :leap

-- servers_gone --
-- Whoever serves from now on says so itself.
DELETE FROM server

-- drives_detached --
-- As above.
UPDATE drive SET tapeserver = NULL, heartbeat_at = NULL

-- candidates_gone --
-- What the planner thought; it thinks anew.
DELETE FROM candidate

-- events_gone --
-- Transaction ids start lower on another server, so the old ones would never, or out of order, be read.
DELETE FROM event

-- segments_unsafe_gone --
-- What is not on tape for certain by this catalog is told again, by segments of this life.
DELETE FROM journal_segment WHERE closed_at IS NULL OR file IS NULL OR NOT file_is_safe(file)

-- segments_end --
-- All rows that are left lie behind them.
UPDATE journal_segment SET until_transaction = '0', until_seq = 0

-- journal_again --
-- Transaction ids of another server mean nothing here: these are final, and come in order of seq.
UPDATE journal SET transaction = '0'
