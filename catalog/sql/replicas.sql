-- register_server --
-- The root's identity is part of the condition: a server that lost its disk must not take over the rows of the old one.
-- One that the journal alone told of, after a restore, has none yet.
INSERT INTO cache_server (name, url, root_id, host, root, capacity_bytes, high_watermark, low_watermark, heartbeat_at)
VALUES (:name, :url, :root_id, :host, :root, :capacity_bytes, CAST(:high AS real), CAST(:low AS real), capstan_now())
ON CONFLICT (name) DO UPDATE SET
    url = excluded.url, root_id = excluded.root_id, host = excluded.host, root = excluded.root, capacity_bytes = excluded.capacity_bytes,
    high_watermark = excluded.high_watermark, low_watermark = excluded.low_watermark, heartbeat_at = excluded.heartbeat_at,
    unreached_at = NULL
WHERE cache_server.root_id IN (excluded.root_id, '')
RETURNING name

-- heartbeat_server --
-- Answers the catalog's clock too: expiry of signed URLs is judged by it, not by the host's.
UPDATE cache_server SET heartbeat_at = capstan_now(), evictable_bytes = :evictable_bytes WHERE name = :name
RETURNING CAST(extract(epoch FROM capstan_now()) AS double precision) AS now, state

-- replica_for_read --
-- A live server, and of several the one that carries the least; a quarantined or lost replica is never an answer.
SELECT r.id, r.file, r.size, s.name AS cache_server, s.url, s.host, s.root,
       r.last_used_at < capstan_now() - interval '1 minute' AS touch
FROM replica r JOIN cache_server s ON s.name = r.cache_server
WHERE r.file = :file AND r.state = 'on_disk' AND s.state = 'up'
  AND s.heartbeat_at > capstan_now() - make_interval(secs => :heartbeat_seconds_max)
ORDER BY s.taken_bytes, r.id LIMIT 1

-- touch --
-- At most once a minute, and never waiting: it only makes the age right, and a locked row is being used anyhow.
UPDATE replica SET last_used_at = capstan_now()
WHERE id = (SELECT id FROM replica WHERE id = :id AND state = 'on_disk' FOR NO KEY UPDATE SKIP LOCKED)

-- reserve --
-- The emptiest live server that has room, chosen and charged in one statement: every put wants this row, so nobody may
-- hold it for a round trip. Chosen without a lock (to lock a row and update it in one statement deadlocks with others
-- that do so): the guard in the UPDATE decides, and who finds no room there any more chooses again.
-- An id that is given was drawn before, on disk (see `DrawnIds`): then the commit need not be. What a crash can take is
-- the reservation and its charge together, never one of the two.
WITH taken AS (
    UPDATE cache_server SET taken_bytes = taken_bytes + CAST(:bytes AS bigint)
    WHERE taken_bytes + CAST(:bytes AS bigint) <= capacity_bytes AND name = (
        SELECT name FROM cache_server
        WHERE state = 'up' AND heartbeat_at > capstan_now() - make_interval(secs => :heartbeat_seconds_max)
          AND (CAST(:server AS text) IS NULL OR name = CAST(:server AS text))
          AND taken_bytes + CAST(:bytes AS bigint) <= capacity_bytes
        ORDER BY capacity_bytes - taken_bytes DESC, name LIMIT 1)
    RETURNING name, url
), promised AS (
    INSERT INTO reservation (id, cache_server, bytes, kind, file, epoch, path, expires_at) OVERRIDING SYSTEM VALUE
    SELECT coalesce(CAST(:id AS bigint), nextval(pg_get_serial_sequence('reservation', 'id'))), name,
           CAST(:bytes AS bigint), CAST(:kind AS text), CAST(:file AS bigint), CAST(:epoch AS bigint),
           CAST(:path AS text), capstan_now() + make_interval(secs => :lifetime_seconds)
    FROM taken RETURNING id, cache_server
)
SELECT p.id, t.name, t.url, CASE WHEN CAST(:id AS bigint) IS NOT NULL
                                 THEN set_config('synchronous_commit', 'off', true) END AS synchronous_commit
FROM promised p JOIN taken t ON t.name = p.cache_server

-- draw_ids --
-- Drawing logs the sequence's new end for several ids at once; the commit of that is on disk when this answers.
SELECT nextval(pg_get_serial_sequence('reservation', 'id')) FROM generate_series(1, :number)

-- choose_server --
-- As in reserve, but held until the statement that charges it: recalls reserve in sets, seldom. One that movers cannot
-- reach stays the emptiest for ever: it comes behind the others that have room.
SELECT name, url FROM cache_server
WHERE state = 'up' AND heartbeat_at > capstan_now() - make_interval(secs => :heartbeat_seconds_max)
  AND taken_bytes + CAST(:bytes AS bigint) <= capacity_bytes
ORDER BY coalesce(unreached_at > capstan_now() - make_interval(secs => :unreached_seconds), false),
         capacity_bytes - taken_bytes DESC, name LIMIT 1 FOR NO KEY UPDATE

-- unreached --
-- Again and again by many files and movers, written once in so many seconds: reservations want the row.
UPDATE cache_server SET unreached_at = capstan_now()
WHERE name = :server AND coalesce(unreached_at < capstan_now() - make_interval(secs => :again_seconds), true)

-- reserve_recalls --
-- As many as fit, in the given order, none left out between: the mover reads them in that order. The server's row is
-- locked by the statement before. The ids are given in that order too.
WITH given AS (
    SELECT number, file, bytes, sum(bytes) OVER (ORDER BY number) AS together
    FROM unnest(CAST(:files AS bigint[]), CAST(:sizes AS bigint[])) WITH ORDINALITY AS g (file, bytes, number)
), fitting AS (
    SELECT g.* FROM given g JOIN cache_server s ON s.name = :server
    WHERE g.together <= s.capacity_bytes - s.taken_bytes
), taken AS (
    UPDATE cache_server SET taken_bytes = taken_bytes + (SELECT coalesce(sum(bytes), 0) FROM fitting)
    WHERE name = :server
)
INSERT INTO reservation (cache_server, bytes, kind, file, epoch, expires_at)
SELECT CAST(:server AS text), bytes, 'recall', file, CAST(:epoch AS bigint),
       capstan_now() + make_interval(secs => :lifetime_seconds)
FROM fitting ORDER BY number RETURNING id, file, bytes

-- want_space --
-- What was refused, for the evictor of the emptiest server that could ever hold it; it clears the note when it has
-- looked. The largest wish counts: wishes are repeated, so their sum would grow without end.
UPDATE cache_server SET wanted_bytes = greatest(wanted_bytes, CAST(:bytes AS bigint))
WHERE name = (
    SELECT name FROM cache_server
    WHERE state = 'up' AND capacity_bytes >= CAST(:bytes AS bigint)
      AND heartbeat_at > capstan_now() - make_interval(secs => :heartbeat_seconds_max)
      AND (CAST(:server AS text) IS NULL OR name = CAST(:server AS text))
    ORDER BY capacity_bytes - taken_bytes DESC, name LIMIT 1
)

-- take_wanted --
-- Read and cleared in one step, so that a wish that comes meanwhile is kept for the next look.
UPDATE cache_server s SET wanted_bytes = 0
FROM (SELECT name, wanted_bytes FROM cache_server WHERE name = :server FOR UPDATE) o
WHERE s.name = o.name AND o.wanted_bytes > 0 RETURNING o.wanted_bytes

-- extend --
-- Only later, never earlier: a slow answer must not shorten what a faster one promised. What was abandoned stays so.
UPDATE reservation SET expires_at = greatest(expires_at, capstan_now() + make_interval(secs => :lifetime_seconds))
WHERE id = ANY (CAST(:ids AS bigint[]))
  AND CASE kind WHEN 'recall' THEN file IS NOT NULL ELSE path IS NOT NULL END RETURNING id

-- abandon --
-- Without its file a recall's reservation, and without its path a put's, cannot become a replica any more; it only keeps
-- counting the space that bytes may already take, until the cache server has looked at its disk. Waits for a commit that
-- uses one at this moment; what that made a replica of is not in the answer.
UPDATE reservation SET file = NULL, path = NULL, expires_at = least(expires_at, capstan_now())
WHERE id = ANY (CAST(:ids AS bigint[])) RETURNING id

-- grow --
-- The same guard as reserve. The server's row is locked before the reservation's, as everywhere.
WITH taken AS (
    UPDATE cache_server s SET taken_bytes = taken_bytes + CAST(:bytes AS bigint)
    WHERE name = (SELECT cache_server FROM reservation WHERE id = :id)
      AND taken_bytes + CAST(:bytes AS bigint) <= capacity_bytes RETURNING name
)
UPDATE reservation r SET bytes = r.bytes + CAST(:bytes AS bigint) FROM taken WHERE r.id = :id AND r.cache_server = taken.name
RETURNING r.bytes

-- lock_servers_of_reservations --
-- The servers' rows come before the reservations' in the lock order, sorted among themselves.
SELECT name FROM cache_server
WHERE name IN (SELECT cache_server FROM reservation WHERE id = ANY (CAST(:ids AS bigint[])))
ORDER BY name FOR NO KEY UPDATE

-- release --
-- The row and its bytes go together. Releasing what is gone does nothing.
WITH gone AS (
    DELETE FROM reservation WHERE id = ANY (CAST(:ids AS bigint[])) RETURNING id, cache_server, bytes
), given_back AS (
    UPDATE cache_server s SET taken_bytes = s.taken_bytes - g.bytes
    FROM (SELECT cache_server, sum(bytes) AS bytes FROM gone GROUP BY cache_server) g WHERE s.name = g.cache_server
)
SELECT id FROM gone

-- expired_reservations --
-- Of one server, which knows what still moves: those are extended before they are looked for here.
SELECT id FROM reservation WHERE cache_server = :server AND expires_at <= capstan_now() ORDER BY expires_at LIMIT :limit

-- lock_files_of_arrivals --
-- FOR SHARE: a file that is removed meanwhile is removed before (then its bytes go) or after (then it finds the replica).
SELECT id, state FROM file WHERE id = ANY (CAST(:files AS bigint[])) ORDER BY id FOR SHARE

-- arrive --
-- Reservation -> replica in one statement. A replica that is there already stays: the arrival is surplus, and its
-- reservation is abandoned, so that the cache server removes its bytes. A LOST row makes way, its file is back.
WITH given AS (
    SELECT g.id, g.file, EXISTS (SELECT FROM replica x WHERE x.file = r.file AND x.cache_server = r.cache_server
                                 AND x.state IN ('on_disk', 'lost')) AS surplus
    FROM unnest(CAST(:ids AS bigint[]), CAST(:files AS bigint[])) AS g (id, file)
    JOIN reservation r ON r.id = g.id AND r.file = g.file AND r.kind = 'recall'
), abandoned AS (
    UPDATE reservation r SET file = NULL, expires_at = capstan_now() FROM given g WHERE r.id = g.id AND g.surplus
    RETURNING g.file
), taken AS (
    DELETE FROM reservation r USING given g WHERE r.id = g.id AND NOT g.surplus
    RETURNING r.id, r.file, r.cache_server, r.bytes
), arrived AS (
    INSERT INTO replica (id, file, cache_server, size, origin)
    SELECT t.id, t.file, t.cache_server, f.size, 'recall' FROM taken t JOIN file f ON f.id = t.file ORDER BY t.id
    ON CONFLICT (file, cache_server) WHERE state IN ('on_disk', 'lost') DO NOTHING
    RETURNING id, file, cache_server, size
), counted AS (
    UPDATE cache_server s SET taken_bytes = s.taken_bytes - t.bytes + coalesce(a.bytes, 0)
    FROM (SELECT cache_server, sum(bytes) AS bytes FROM taken GROUP BY cache_server) t
    LEFT JOIN (SELECT cache_server, sum(size) AS bytes FROM arrived GROUP BY cache_server) a USING (cache_server)
    WHERE s.name = t.cache_server AND t.bytes <> coalesce(a.bytes, 0)
)
SELECT file FROM taken UNION ALL SELECT file FROM abandoned ORDER BY file

-- drop_lost --
-- The file's bytes come back under a new replica id; the unique index allows one row of a file on a server.
DELETE FROM replica r USING reservation v
WHERE v.id = ANY (CAST(:ids AS bigint[])) AND r.file = v.file AND r.cache_server = v.cache_server AND r.state = 'lost'

-- evict_arrivals_of_deleted --
-- The file was removed while it was read: what arrived is nobody's.
UPDATE replica SET state = 'evicting', why = 'file removed' WHERE id = ANY (CAST(:ids AS bigint[])) AND state = 'on_disk'
  AND file IN (SELECT id FROM file WHERE id = ANY (CAST(:files AS bigint[])) AND state <> 'live')

-- eviction_candidates --
-- Oldest first, by the index on age. The test of each is repeated under its lock by `evict`; this one only saves work.
SELECT id, size, CAST(extract(epoch FROM last_used_at) AS double precision) AS last_used_at
FROM replica WHERE cache_server = :server AND state = 'on_disk' AND file_is_evictable(file)
ORDER BY last_used_at, id LIMIT :limit

-- evictable_page --
-- By id, which nothing changes: what is used while it is looked at keeps its place. What is being evicted is as good as
-- gone. Of a page, which is what one statement takes, the files are asked of together.
WITH page AS MATERIALIZED (
    SELECT id, file, size, state FROM replica
    WHERE cache_server = :server AND state IN ('on_disk', 'evicting') AND id > :after ORDER BY id LIMIT :limit
)
SELECT max(id) AS last, CAST(coalesce(sum(size) FILTER (WHERE state = 'evicting' OR file IN (
    SELECT evictable_files((SELECT array_agg(file) FROM page WHERE state = 'on_disk')))), 0) AS bigint) AS bytes
FROM page

-- lock_victims --
-- First the lock, then (in the next statement, whose snapshot is newer) the test: who pins a file locks its replica
-- FOR SHARE, so that either the pin is seen by the test, or the pinner sees EVICTING. SKIP LOCKED: what somebody
-- holds is in use.
SELECT id FROM replica
WHERE state = 'on_disk' AND (CAST(:server AS text) IS NULL OR cache_server = CAST(:server AS text))
  AND (CAST(:ids AS bigint[]) IS NULL OR id = ANY (CAST(:ids AS bigint[])))
  AND (CAST(:files AS bigint[]) IS NULL OR file = ANY (CAST(:files AS bigint[])))
ORDER BY last_used_at, id LIMIT :limit FOR UPDATE SKIP LOCKED

-- evict --
-- The one guarded UPDATE that lets bytes go: safe, unpinned, not wanted by a request.
UPDATE replica SET state = 'evicting', why = :why
WHERE id = ANY (CAST(:ids AS bigint[])) AND state = 'on_disk' AND file_is_evictable(file)
RETURNING id, file, cache_server, size

-- why_kept --
-- The reason for people; the order is that of `file_is_evictable`.
SELECT r.file, r.id, CASE
    WHEN NOT file_is_safe(r.file) THEN 'not yet safe'
    WHEN file_is_degraded(r.file) AND NOT s.evict_degraded THEN 'degraded'
    WHEN EXISTS (SELECT FROM pin p WHERE p.file = r.file AND p.expires_at > capstan_now()) THEN 'pinned'
    WHEN EXISTS (SELECT FROM stage_item i WHERE i.file = r.file AND i.state IN ('submitted', 'started')) THEN 'requested'
    ELSE 'in use' END AS why
FROM replica r JOIN file f ON f.id = r.file JOIN storage_class s ON s.name = f.storage_class
WHERE r.state = 'on_disk' AND (CAST(:server AS text) IS NULL OR r.cache_server = CAST(:server AS text))
  AND (CAST(:ids AS bigint[]) IS NULL OR r.id = ANY (CAST(:ids AS bigint[])))
  AND (CAST(:files AS bigint[]) IS NULL OR r.file = ANY (CAST(:files AS bigint[])))
ORDER BY r.file LIMIT :limit

-- evicting --
-- What this server has to unlink, also what a removed file or an earlier run left.
SELECT id FROM replica WHERE cache_server = :server AND state = 'evicting' ORDER BY id LIMIT :limit

-- lock_servers_of_replicas --
-- The server's row comes before the replica's in the lock order.
SELECT name FROM cache_server WHERE name IN (SELECT cache_server FROM replica WHERE id = ANY (CAST(:ids AS bigint[])))
ORDER BY name FOR NO KEY UPDATE

-- forget_evicted --
-- Only after the unlink: until then the bytes count as used.
WITH gone AS (
    DELETE FROM replica WHERE id = ANY (CAST(:ids AS bigint[])) AND state = 'evicting' RETURNING id, cache_server, size
), given_back AS (
    UPDATE cache_server s SET taken_bytes = s.taken_bytes - g.bytes
    FROM (SELECT cache_server, sum(size) AS bytes FROM gone GROUP BY cache_server) g WHERE s.name = g.cache_server
)
SELECT id, size FROM gone

-- lock_absent --
-- Whoever evicts, finds or loses it at the same time is before us or behind us.
SELECT id FROM replica WHERE id = :id AND (state = 'on_disk' OR state = 'evicting') FOR UPDATE

-- absent --
-- A statement of its own behind the locks, so that what it sees is as new as can be.
SELECT r.file, r.state, f.state AS file_state, file_is_safe(f.id) AS safe, f.stored_path, r.cache_server
FROM replica r JOIN file f ON f.id = r.file WHERE r.id = :id

-- doubt --
-- Only what is to be served: the others are never an answer.
UPDATE replica SET checked = false WHERE id = ANY (CAST(:ids AS bigint[])) AND checked AND state = 'on_disk'

-- mark_checked --
-- In the order of ids, and skipping what is locked, which is being used or going: it is checked again at worst.
UPDATE replica SET checked = true WHERE id IN (
    SELECT id FROM replica WHERE id = ANY (CAST(:ids AS bigint[])) AND NOT checked AND state = 'on_disk'
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)

-- drop_absent --
-- The bytes are gone and the file has its copies (or was removed): nothing is lost but the replica.
WITH gone AS (
    DELETE FROM replica WHERE id = :id AND (state = 'on_disk' OR state = 'evicting') RETURNING file, cache_server, size
), given_back AS (
    UPDATE cache_server s SET taken_bytes = s.taken_bytes - g.size FROM gone g WHERE s.name = g.cache_server
)
SELECT file FROM gone

-- mark_lost --
-- The row is kept: it is the only trace of where the bytes were. They use no space any more.
WITH gone AS (
    UPDATE replica SET state = 'lost', why = :why WHERE id = :id AND state = 'on_disk' RETURNING file, cache_server, size
), given_back AS (
    UPDATE cache_server s SET taken_bytes = s.taken_bytes - g.size FROM gone g WHERE s.name = g.cache_server
)
SELECT file FROM gone

-- found_again --
-- The bytes are back where they were (a disk that was mounted late) and were checked before this.
WITH found AS (
    UPDATE replica SET state = 'on_disk', why = '', checked = true WHERE id = :id AND state = 'lost' RETURNING id, cache_server, size
), counted AS (
    UPDATE cache_server s SET taken_bytes = s.taken_bytes + f.size FROM found f WHERE s.name = f.cache_server
)
SELECT id FROM found

-- quarantine --
-- Its bytes stay on the disk, aside, and keep using their space until somebody has looked at them.
UPDATE replica SET state = 'quarantined', why = :why WHERE id = :id AND state = 'on_disk' RETURNING file, cache_server

-- recount --
-- Truth from the rows. The server's row is locked by the statement before, and whatever changes the sum changes that row
-- in the same transaction; a reservation that becomes a replica of its size does neither. So this statement's one
-- snapshot holds rows and number of one moment.
UPDATE cache_server s SET taken_bytes = t.truth
FROM (SELECT (SELECT coalesce(sum(size), 0) FROM replica
              WHERE cache_server = :server AND state IN ('on_disk', 'evicting', 'quarantined'))
           + (SELECT coalesce(sum(bytes), 0) FROM reservation WHERE cache_server = :server) AS truth,
             o.taken_bytes AS before
      FROM cache_server o WHERE o.name = :server) t
WHERE s.name = :server
RETURNING t.truth - t.before AS drift

-- lock_server --
-- For statements that count what only moves under this lock.
SELECT name FROM cache_server WHERE name = :server FOR UPDATE

-- catalogued --
-- Every row of one server with what is needed to check its bytes, in pages by id.
SELECT r.id, r.file, r.state, r.size, r.origin, r.checked, f.adler32
FROM replica r JOIN file f ON f.id = r.file
WHERE r.cache_server = :server AND r.id > :after ORDER BY r.id LIMIT :limit

-- replicas_by_id --
-- For one transfer: what the catalog knows of these replicas on this server.
SELECT r.id, r.file, r.state, r.size, r.origin, r.checked, f.adler32
FROM replica r JOIN file f ON f.id = r.file
WHERE r.cache_server = :server AND r.id = ANY (CAST(:ids AS bigint[])) ORDER BY r.id

-- reservations_of --
-- What is promised on one server: of one mount for a mover's stream (without what was abandoned), or of all.
SELECT id, bytes, kind, file, epoch FROM reservation
WHERE cache_server = :server
  AND (CAST(:epoch AS bigint) IS NULL OR (epoch = CAST(:epoch AS bigint) AND file IS NOT NULL))
  AND (CAST(:ids AS bigint[]) IS NULL OR id = ANY (CAST(:ids AS bigint[])))
ORDER BY id

-- lock_pinned --
-- Against the evictor, see lock_victims: what this statement returns stays on disk until the pin is committed.
SELECT DISTINCT file FROM (
    SELECT file FROM replica WHERE file = ANY (CAST(:files AS bigint[])) AND state = 'on_disk' ORDER BY id FOR SHARE
) locked ORDER BY file

-- pin --
-- A repeat prolongs, and never shortens.
INSERT INTO pin (file, owner, expires_at)
SELECT file, CAST(:owner AS text), capstan_now() + make_interval(secs => :lifetime_seconds)
FROM unnest(CAST(:files AS bigint[])) AS g (file) ORDER BY file
ON CONFLICT (file, owner) DO UPDATE SET expires_at = greatest(pin.expires_at, excluded.expires_at)

-- unpin --
-- Of all files, or of some. Expired pins go with them.
DELETE FROM pin WHERE owner = :owner
  AND (CAST(:files AS bigint[]) IS NULL OR file = ANY (CAST(:files AS bigint[]))) RETURNING file

-- renew --
-- Counted by the catalog's clock. A pin that has expired is not renewed: its file may be gone, so it is pinned anew.
UPDATE pin SET expires_at = greatest(expires_at, capstan_now() + make_interval(secs => :lifetime_seconds))
WHERE owner = :owner AND expires_at > capstan_now()
  AND (CAST(:files AS bigint[]) IS NULL OR file = ANY (CAST(:files AS bigint[]))) RETURNING file

-- expire_pins --
-- SKIP LOCKED: every cache server does this, and who renews one just now has the better right.
DELETE FROM pin WHERE (file, owner) IN (
    SELECT file, owner FROM pin WHERE expires_at <= capstan_now() ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED)
