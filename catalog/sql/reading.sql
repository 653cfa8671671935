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
    SELECT count(DISTINCT c.copy_number) FILTER (WHERE v.state IN ('active', 'full', 'disabled')) AS good,
           count(DISTINCT c.copy_number) FILTER (WHERE v.state IN ('active', 'full', 'disabled')
                                                 AND l.state = 'up' AND v.state <> 'disabled') AS reachable,
           count(*) FILTER (WHERE v.state IN ('active', 'full', 'suspect') AND l.state = 'up') AS readable
    FROM copy c JOIN volume v ON v.vid = c.volume AND v.generation = c.generation JOIN library l ON l.name = v.library
    WHERE c.file = f.id
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
       v.generation = c.generation AND v.state IN ('active', 'full', 'suspect') AND l.state = 'up' AS readable
FROM copy c JOIN volume v ON v.vid = c.volume JOIN library l ON l.name = v.library
WHERE c.file = ANY(CAST(:files AS bigint[])) ORDER BY c.file, c.copy_number, c.id

-- cache_places --
-- Where a process on the cache server's host finds the bytes without asking anybody.
SELECT r.file, r.id AS replica_id, c.host, c.root, c.name AS cache_server FROM replica r JOIN cache_server c ON c.name = r.cache_server
WHERE r.file = ANY(CAST(:files AS bigint[])) AND r.state = 'on_disk'
  AND c.state = 'up' AND c.heartbeat_at > capstan_now() - make_interval(secs => :heartbeat_seconds_max)
ORDER BY r.file, r.id

-- volume_files --
-- Keyset by position, which is the index of the copies, so that a volume of millions of files is read in pages.
SELECT node_path(f.node) AS path, f.id AS file_id, f.size, c.first_block, c.byte_offset,
       exists(SELECT FROM replica r WHERE r.file = f.id AND r.state = 'on_disk') AS on_disk
FROM volume v JOIN copy c ON c.volume = v.vid AND c.generation = v.generation
JOIN file f ON f.id = c.file AND f.state = 'live'
WHERE v.vid = :vid AND (c.first_block, c.byte_offset, c.file) > (:after_block, :after_offset, :after_file)
ORDER BY c.first_block, c.byte_offset, c.file LIMIT :limit

-- oldest_unsafe --
-- An archive row lives exactly as long as its copy is missing, so the oldest one is the oldest file not yet safe.
SELECT extract(epoch FROM capstan_now() - min(created_at)) AS seconds FROM archive

-- child_directory --
-- One step down; what is no directory any more has nothing below it.
SELECT id FROM node WHERE parent = :parent AND name = :name AND kind = 'directory'
