-- insert_request --
-- The number of items is known before they are copied, so the row never changes while they are.
INSERT INTO stage_request (owner, token, origin, activity, priority, items, items_live)
VALUES (:owner, :token, :origin, :activity, :priority, :items, :items) RETURNING id

-- lock_request --
-- Whoever changes items of a request holds its row first; that makes items_live exact and the end happen once.
SELECT id, owner, token, origin, state, activity, priority, items, items_live FROM stage_request
WHERE id = :id AND forgotten_at IS NULL FOR UPDATE

-- next_unresolved --
-- SKIP LOCKED: several doors resolve, each another request. A request is `submitted` until all of it is resolved.
SELECT id FROM stage_request WHERE id > :after AND state = 'submitted' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED

-- mark_resolved --
-- Its items may all have ended already; then it has ended too.
UPDATE stage_request SET state = 'started', started_at = coalesce(started_at, capstan_now())
WHERE id = :id AND state = 'submitted'

-- unresolved_items --
-- No lock: all who change items hold the request's row.
SELECT number, path, lifetime_seconds, cohort FROM stage_item
WHERE request = :request AND number > :after AND state = 'submitted'
ORDER BY number LIMIT :limit

-- lock_on_disk --
-- FOR SHARE keeps these replicas from eviction until their pins are committed: the evictor locks a row before it
-- looks at the pins. Only a live server's disk counts.
SELECT r.file FROM replica r JOIN cache_server s ON s.name = r.cache_server
WHERE r.file = ANY(CAST(:files AS bigint[])) AND r.state = 'on_disk'
  AND s.state = 'up' AND s.heartbeat_at > capstan_now() - make_interval(secs => :heartbeat_seconds_max)
ORDER BY r.id FOR SHARE OF r

-- set_items --
-- One statement for a chunk of items with different outcomes. A file that completes was on disk all along.
UPDATE stage_item i
SET state = new.state, file = new.file, error_code = new.error_code, error = new.error,
    started_at = capstan_now(), finished_at = CASE WHEN new.state <> 'started' THEN capstan_now() END
FROM unnest(CAST(:numbers AS integer[]), CAST(:states AS text[]), CAST(:files AS bigint[]),
            CAST(:codes AS text[]), CAST(:errors AS text[])) AS new (number, state, file, error_code, error)
WHERE i.request = :request AND i.number = new.number AND i.state = 'submitted'

-- pin_completed --
-- The pins of a request's completed files. A later end never becomes an earlier one.
INSERT INTO pin (file, owner, expires_at)
SELECT i.file, 'request:' || i.request, capstan_now() + make_interval(secs => max(i.lifetime_seconds))
FROM stage_item i
WHERE i.request = :request AND i.number = ANY(CAST(:numbers AS integer[])) AND i.state = 'completed'
GROUP BY i.request, i.file ORDER BY i.file
ON CONFLICT (file, owner) DO UPDATE SET expires_at = greatest(pin.expires_at, excluded.expires_at)

-- count_down --
-- The request ends with its last live item, in the transaction that ended the item.
UPDATE stage_request
SET items_live = items_live - :ended, started_at = coalesce(started_at, capstan_now()),
    state = CASE WHEN items_live - :ended <= 0 THEN 'ended' ELSE state END,
    completed_at = CASE WHEN items_live - :ended <= 0 THEN capstan_now() END
WHERE id = :id AND state <> 'ended' RETURNING state, owner

-- lock_requests_of --
-- Request rows before item rows, in id order, everywhere: so that two sessions that end items cannot deadlock.
SELECT id FROM stage_request
WHERE id IN (SELECT request FROM stage_item
             WHERE file = ANY(CAST(:files AS bigint[])) AND state IN ('submitted', 'started'))
ORDER BY id FOR UPDATE

-- complete_items --
-- The pin stands in the same transaction: there is no moment in which the file is on disk for somebody and may go.
WITH done AS (
    UPDATE stage_item SET state = 'completed', started_at = coalesce(started_at, capstan_now()),
                          finished_at = capstan_now()
    WHERE file = ANY(CAST(:files AS bigint[])) AND state IN ('submitted', 'started')
    RETURNING request, file, lifetime_seconds
), pinned AS (
    INSERT INTO pin (file, owner, expires_at)
    SELECT file, 'request:' || request, capstan_now() + make_interval(secs => max(lifetime_seconds))
    FROM done GROUP BY request, file ORDER BY file, request
    ON CONFLICT (file, owner) DO UPDATE SET expires_at = greatest(pin.expires_at, excluded.expires_at)
)
SELECT request, count(*) AS ended FROM done GROUP BY request ORDER BY request

-- fail_items --
-- The error is the item's, so that each file of a request tells its own.
WITH failed AS (
    UPDATE stage_item i SET state = 'failed', error_code = new.code, error = new.error,
                            started_at = coalesce(i.started_at, capstan_now()), finished_at = capstan_now()
    FROM unnest(CAST(:files AS bigint[]), CAST(:codes AS text[]), CAST(:errors AS text[])) AS new (file, code, error)
    WHERE i.file = new.file AND i.state IN ('submitted', 'started')
    RETURNING i.request
)
SELECT request, count(*) AS ended FROM failed GROUP BY request ORDER BY request

-- start_items --
-- Only what still waits moves; a file read for the second waiter changes nothing for the first.
UPDATE stage_item SET state = 'started', started_at = coalesce(started_at, capstan_now())
WHERE file = ANY(CAST(:files AS bigint[])) AND state = 'submitted'

-- foreign_paths --
-- Looked up by the hash of the path, which is what the index holds.
SELECT path FROM unnest(CAST(:paths AS text[])) AS given (path)
WHERE NOT exists(SELECT FROM stage_item i WHERE i.request = :request AND i.path = given.path
                 AND hashtextextended(i.path, 0) = hashtextextended(given.path, 0))
LIMIT 1

-- cancel_items --
-- Terminal items stay as they are: to cancel what has ended is no error.
UPDATE stage_item i SET state = 'cancelled', finished_at = capstan_now()
FROM unnest(CAST(:paths AS text[])) AS given (path)
WHERE i.request = :request AND i.path = given.path
  AND hashtextextended(i.path, 0) = hashtextextended(given.path, 0) AND i.state IN ('submitted', 'started')
RETURNING i.file

-- cancel_all --
-- The same for the whole request.
UPDATE stage_item SET state = 'cancelled', finished_at = capstan_now()
WHERE request = :request AND state IN ('submitted', 'started') RETURNING file

-- unpin_request --
-- All of its pins at once; other owners' pins on the same files stay.
DELETE FROM pin WHERE owner = :owner

-- unpin_items --
-- Only the named files of the request; cancelled and failed ones have no pin, so nothing happens for them.
DELETE FROM pin p USING stage_item i, unnest(CAST(:paths AS text[])) AS given (path)
WHERE i.request = :request AND i.path = given.path
  AND hashtextextended(i.path, 0) = hashtextextended(given.path, 0)
  AND p.file = i.file AND p.owner = 'request:' || i.request

-- unpin_own --
-- A client that has forgotten its request's id releases its own pins on these files, and nobody else's.
DELETE FROM pin p USING stage_request r
WHERE p.file = ANY(CAST(:files AS bigint[])) AND r.owner = :owner
  AND p.owner = 'request:' || r.id

-- lock_get --
-- Two GETs of one file by one owner at once must not make two requests.
SELECT pg_advisory_xact_lock(hashtextextended('capstan.get ' || CAST(:owner AS text), CAST(:file AS bigint)))

-- live_get --
-- A GET is repeated until the file is there; each time finds the request that the first one made.
SELECT r.id FROM stage_item i JOIN stage_request r ON r.id = i.request
WHERE i.file = :file AND i.state IN ('submitted', 'started') AND r.owner = :owner AND r.origin = 'get'
ORDER BY r.id LIMIT 1

-- stranded --
-- Items that wait for a recall that is not there: whatever took it away forgot them. Window by file id, so that a
-- look at a million waiting items is many short ones.
SELECT i.file, bool_or(EXISTS(SELECT FROM recall q WHERE q.file = i.file)) AS has_recall
FROM stage_item i WHERE i.file > :after AND i.state IN ('submitted', 'started')
GROUP BY i.file ORDER BY i.file LIMIT :limit

-- look_again_seconds --
-- A mount that has the recall will soon be done with it; one that has waited long may wait longer.
SELECT CASE WHEN state = 'claimed' THEN 1 WHEN created_at > capstan_now() - interval '10 seconds' THEN 2 ELSE 5 END
FROM recall WHERE file = :file

-- forget_repair --
-- Nobody asks how long it took, and its number is not looked for again.
DELETE FROM stage_request WHERE id = :id AND origin = 'repair'

-- forget --
-- For its owner it is gone; what was read for it stays known for a while.
UPDATE stage_request SET forgotten_at = capstan_now() WHERE id = :id

-- forget_for_good --
-- Each one that is forgotten takes up to two old ones along, so that they never pile up and nobody has to clear up.
DELETE FROM stage_request WHERE id IN (
    SELECT id FROM stage_request WHERE forgotten_at < capstan_now() - make_interval(days => :days)
    ORDER BY forgotten_at LIMIT 2 FOR UPDATE SKIP LOCKED)
