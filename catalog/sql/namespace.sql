-- walk --
-- One round trip for a whole path: each step is one look into the unique index (parent, name).
WITH RECURSIVE walk (depth, id, parent, name, kind) AS (
    SELECT 0, id, parent, name, kind FROM node WHERE parent IS NULL
    UNION ALL
    SELECT walk.depth + 1, n.id, n.parent, n.name, n.kind
    FROM walk JOIN node n ON n.parent = walk.id AND n.name = (CAST(:names AS text[]))[walk.depth + 1]
)
SELECT depth, id, parent, name, kind FROM walk ORDER BY depth

-- walk_many --
-- The same for thousands of paths at once; of each the deepest step that exists, and the first non-directory on it.
WITH RECURSIVE wanted AS (
    SELECT number, string_to_array(substr(path, 2), '/') AS names
    FROM unnest(CAST(:numbers AS integer[]), CAST(:paths AS text[])) AS given (number, path)
), walk (number, names, depth, id, kind) AS (
    SELECT wanted.number, wanted.names, 0, root.id, root.kind
    FROM wanted CROSS JOIN (SELECT id, kind FROM node WHERE parent IS NULL) AS root
    UNION ALL
    SELECT walk.number, walk.names, walk.depth + 1, n.id, n.kind
    FROM walk JOIN node n ON n.parent = walk.id AND n.name = walk.names[walk.depth + 1]
)
SELECT w.number, w.kind, f.id AS file, f.size
FROM walk w LEFT JOIN file f ON f.node = w.id AND w.kind = 'file'
WHERE w.depth = cardinality(w.names)

-- lock_directory --
-- FOR KEY SHARE: any number of puts and mkdirs go on below one directory, but nobody can remove it meanwhile.
SELECT id FROM node WHERE id = :id AND kind = 'directory' FOR KEY SHARE

-- lock_node --
-- FOR UPDATE waits for every put that holds the node as its parent; the statements after it see what they made.
SELECT id, parent, name, kind FROM node WHERE id = :id FOR UPDATE

-- insert_node --
-- The unique index decides races between makers of one name; the loser gets no row, and its transaction lives on.
INSERT INTO node (parent, name, kind) VALUES (:parent, :name, :kind)
ON CONFLICT (parent, name) DO NOTHING RETURNING id

-- move_node --
-- One row, whatever lies below. The unique index decides against what was made under the new name meanwhile.
UPDATE node SET parent = :parent, name = :name WHERE id = :id

-- lock_directory_moves --
-- Two directory moves at once could each put one below the other: a cycle that neither would see.
SELECT pg_advisory_xact_lock(hashtext('capstan.directory_move'))

-- is_below --
-- Walks up from the new parent: a directory must not become its own ancestor.
WITH RECURSIVE up (id, parent) AS (
    SELECT id, parent FROM node WHERE id = :id
    UNION ALL
    SELECT n.id, n.parent FROM node n JOIN up ON n.id = up.parent
)
SELECT exists(SELECT FROM up WHERE id = :ancestor)

-- nearest_class --
-- The nearest directory on the way up that names a storage class decides.
WITH RECURSIVE up (depth, id, parent) AS (
    SELECT 0, id, parent FROM node WHERE id = :id
    UNION ALL
    SELECT up.depth + 1, n.id, n.parent FROM node n JOIN up ON n.id = up.parent
)
SELECT d.storage_class FROM up JOIN directory d ON d.node = up.id
WHERE d.storage_class IS NOT NULL ORDER BY up.depth LIMIT 1

-- delete_file --
-- The state is the condition: of two removals at once one finds nothing to do. The path is what it is now: a file may
-- have moved since it was stored, and with the node goes the only way to it.
UPDATE file SET state = 'deleted', deleted_at = capstan_now(), deleted_path = coalesce(node_path(node), stored_path),
       deleted_by = :by, node = NULL
WHERE id = :file AND state = 'live' RETURNING id

-- purge_without_copies --
-- On no tape, so there is nothing to restore.
UPDATE file f SET state = 'purged' WHERE id = :file AND state = 'deleted'
  AND NOT EXISTS (SELECT FROM copy c WHERE c.file = f.id) RETURNING id

-- evict_deleted --
-- A removed file's bytes may go whether safe or not; readers that have it open keep what they have.
UPDATE replica SET state = 'evicting', why = 'file removed'
WHERE file = :file AND state IN ('on_disk', 'quarantined')

-- drop_pins --
-- Pins keep replicas, and there is nothing left to keep.
DELETE FROM pin WHERE file = :file

-- paths_of --
-- Names are joined upwards from each file; the namespace itself stores no path.
SELECT id, node_path(node) AS path FROM file WHERE id = ANY(CAST(:files AS bigint[])) AND state = 'live'
