-- places --
-- Where many files' bytes are, in one set-based look. A copy counts as good, and as readable, by the rules of states.py;
-- a replica counts only on a live server, for disk means disk latency for the caller.
SELECT f.id,
       coalesce(disk.found, false) AS on_disk, coalesce(tape.good, 0) AS good, coalesce(tape.readable, 0) AS readable,
       coalesce(tape.reachable, 0) AS reachable, s.copies AS wanted
FROM file f JOIN storage_class s ON s.name = f.storage_class
LEFT JOIN LATERAL (
    SELECT true AS found FROM replica r JOIN cache_server c ON c.name = r.cache_server
    WHERE r.file = f.id AND r.state = 'on_disk'
      AND c.state = 'up' AND c.heartbeat_at > capstan_now() - make_interval(secs => :heartbeat_seconds_max)
    LIMIT 1
) AS disk ON true
LEFT JOIN LATERAL (
    SELECT count(DISTINCT c.copy_number) FILTER (WHERE volume_is_good(v.state)) AS good,
           count(DISTINCT c.copy_number) FILTER (WHERE volume_is_good(v.state)
                                                 AND l.state = 'up' AND v.state <> 'disabled') AS reachable,
           count(*) FILTER (WHERE volume_is_readable(v.state) AND l.state = 'up') AS readable
    FROM copy c JOIN volume v ON v.vid = c.volume AND v.generation = c.generation JOIN library l ON l.name = v.library
    WHERE c.file = f.id AND c.broken_at IS NULL
) AS tape ON true
WHERE f.id = ANY(CAST(:files AS bigint[]))

-- page --
-- One page of one directory in name order; the unique index (parent, name) gives it without a sort.
SELECT n.id, n.parent, n.name, n.kind, f.id AS file_id, f.size, f.adler32, f.digests,
       coalesce(f.mtime_ns, d.mtime_ns) AS mtime_ns, coalesce(f.mode, d.mode) AS mode,
       coalesce(f.owner, d.owner) AS owner, coalesce(f.grp, d.grp) AS grp,
       coalesce(f.storage_class, d.storage_class) AS storage_class, f.created_at
FROM node n LEFT JOIN file f ON f.node = n.id LEFT JOIN directory d ON d.node = n.id
WHERE n.parent = :parent AND n.name > :after AND (n.kind = 'directory' OR f.id IS NOT NULL)
  AND n.name <> ALL(CAST(:hidden AS text[]))
ORDER BY n.name LIMIT :limit

-- one --
-- The same columns for a single node.
SELECT n.id, n.parent, n.name, n.kind, f.id AS file_id, f.size, f.adler32, f.digests,
       coalesce(f.mtime_ns, d.mtime_ns) AS mtime_ns, coalesce(f.mode, d.mode) AS mode,
       coalesce(f.owner, d.owner) AS owner, coalesce(f.grp, d.grp) AS grp,
       coalesce(f.storage_class, d.storage_class) AS storage_class, f.created_at
FROM node n LEFT JOIN file f ON f.node = n.id LEFT JOIN directory d ON d.node = n.id
WHERE n.id = :id AND (n.kind = 'directory' OR f.id IS NOT NULL)

-- copies --
-- The copies of many files with the state of what they lie on; `readable` as in `places`.
SELECT c.id AS copy_id, c.file, c.volume, c.generation, v.library, v.pool, c.tape_file, c.first_block, c.byte_offset,
       c.length, v.state AS volume_state, v.reason AS volume_reason, l.state AS library_state, l.reason AS library_reason,
       v.generation = c.generation AS current,
       v.generation = c.generation AND c.broken_at IS NULL AND volume_is_readable(v.state) AND l.state = 'up' AS readable,
       coalesce(c.broken_why, '') AS broken_why
FROM copy c JOIN volume v ON v.vid = c.volume JOIN library l ON l.name = v.library
WHERE c.file = ANY(CAST(:files AS bigint[])) ORDER BY c.file, c.copy_number, c.id

-- cache_places --
-- Where a process on the cache server's host finds the bytes without asking anybody.
SELECT r.file, r.id AS replica_id, c.host, c.root, c.name AS cache_server FROM replica r JOIN cache_server c ON c.name = r.cache_server
WHERE r.file = ANY(CAST(:files AS bigint[])) AND r.state = 'on_disk' AND r.checked
  AND c.state = 'up' AND c.heartbeat_at > capstan_now() - make_interval(secs => :heartbeat_seconds_max)
ORDER BY r.file, r.id

-- volume_files --
-- Keyset by position, which is the index of the copies, so that a volume of millions of files is read in pages.
SELECT node_path(f.node) AS path, f.id AS file_id, f.size, c.first_block, c.byte_offset,
       exists(SELECT FROM replica r WHERE r.file = f.id AND r.state = 'on_disk') AS on_disk
FROM volume v JOIN copy c ON c.volume = v.vid AND c.generation = v.generation
JOIN file f ON f.id = c.file AND f.state = 'live'
WHERE v.vid = :vid AND (c.first_block, c.byte_offset)
    > (CAST(:after_block AS bigint), CAST(:after_offset AS bigint))
ORDER BY c.first_block, c.byte_offset, c.file LIMIT :limit

-- oldest_unsafe --
-- An archive row lives exactly as long as its copy is missing, so the oldest one is the oldest file not yet safe.
SELECT extract(epoch FROM capstan_now() - min(created_at)) AS seconds FROM archive

-- child_directory --
-- One step down; what is no directory any more has nothing below it.
SELECT id FROM node WHERE parent = :parent AND name = :name AND kind = 'directory'

-- item_states --
-- One request's items only; a request of a million files takes a second.
SELECT state, count(*) AS items FROM stage_item WHERE request = :request GROUP BY state

-- register_server --
-- The heartbeat is the database's time, so that hosts' clocks do not matter.
INSERT INTO server (kind, name, url, host, pid, detail) VALUES (:kind, :name, :url, :host, :pid, :detail)
ON CONFLICT (kind, name) DO UPDATE
SET url = excluded.url, host = excluded.host, detail = excluded.detail, heartbeat_at = capstan_now(), pid = excluded.pid,
    started_at = CASE WHEN server.pid = excluded.pid THEN server.started_at ELSE capstan_now() END

-- archives_of --
-- The writes that a file still waits for, with the mount that has one.
SELECT a.copy_number, a.pool, a.state, a.urgent, a.attempts, a.last_error, m.drive, m.volume
FROM archive a LEFT JOIN mount m ON m.epoch = a.epoch WHERE a.file = :file ORDER BY a.copy_number

-- recall_of --
-- The one read under way, with how many wait for it.
SELECT q.state, q.attempts, q.last_error, q.not_before > capstan_now() AS backing_off, m.drive, m.volume,
       (SELECT count(*) FROM stage_item i WHERE i.file = q.file AND i.state IN ('submitted', 'started')) AS waiters,
       ARRAY(SELECT DISTINCT d.volume FROM demand d WHERE d.file = q.file ORDER BY d.volume) AS volumes
FROM recall q LEFT JOIN mount m ON m.epoch = q.epoch WHERE q.file = :file

-- replicas_of --
-- Every replica row, the bad ones included.
SELECT r.state, r.cache_server, r.why, c.state AS server_state,
       c.heartbeat_at > capstan_now() - make_interval(secs => :heartbeat_seconds_max) AS server_live
FROM replica r JOIN cache_server c ON c.name = r.cache_server WHERE r.file = :file ORDER BY r.id

-- pins_of --
-- Live pins only.
SELECT owner, extract(epoch FROM expires_at - capstan_now()) AS seconds FROM pin
WHERE file = :file AND expires_at > capstan_now() ORDER BY expires_at DESC LIMIT 20

-- request_volumes --
-- Which volumes the unfinished files of a request are wanted from.
SELECT d.volume, count(DISTINCT d.file) AS files FROM stage_item i JOIN demand d ON d.file = i.file
WHERE i.request = :request AND i.state = 'started' GROUP BY d.volume ORDER BY files DESC, d.volume LIMIT :limit

-- request_mounts --
-- Those of its files that a mount has taken.
SELECT m.volume, m.drive, count(*) AS files FROM stage_item i JOIN recall q ON q.file = i.file
JOIN mount m ON m.epoch = q.epoch
WHERE i.request = :request AND i.state = 'started' GROUP BY m.volume, m.drive ORDER BY m.volume

-- request_errors --
-- Each kind of failure once, with an example.
SELECT error_code, count(*) AS files, min(error) AS example FROM stage_item
WHERE request = :request AND state = 'failed' GROUP BY error_code ORDER BY files DESC LIMIT 20

-- volume_holds --
-- What one volume holds and is wanted for.
SELECT count(c.id) AS copies, coalesce(sum(c.length), 0) AS bytes,
       (SELECT count(*) FROM demand d WHERE d.volume = :vid) AS wanted
FROM copy c JOIN volume v ON v.vid = c.volume AND v.generation = c.generation WHERE c.volume = :vid

-- volume_contents --
-- What lies on a volume, by what became of the files. Bounded: of a volume with more copies than that the first ones by
-- position are counted, and `counted` says so.
WITH here AS (
    SELECT c.file, c.broken_at FROM volume v JOIN copy c ON c.volume = v.vid AND c.generation = v.generation
    WHERE v.vid = :vid ORDER BY c.first_block, c.byte_offset LIMIT :limit
)
SELECT count(*) AS counted,
       count(*) FILTER (WHERE f.state = 'live') AS live_files,
       CAST(coalesce(sum(f.size) FILTER (WHERE f.state = 'live'), 0) AS bigint) AS live_bytes,
       count(*) FILTER (WHERE f.state = 'deleted') AS deleted_files,
       CAST(coalesce(sum(f.size) FILTER (WHERE f.state = 'deleted'), 0) AS bigint) AS deleted_bytes,
       count(*) FILTER (WHERE h.broken_at IS NOT NULL) AS broken_copies
FROM here h JOIN file f ON f.id = h.file

-- dead_extents --
-- Tape files that nothing refers to.
SELECT count(*) AS extents, CAST(coalesce(sum(d.blocks * v.block_size), 0) AS bigint) AS bytes
FROM volume v JOIN dead_extent d ON d.volume = v.vid AND d.generation = v.generation WHERE v.vid = :vid
