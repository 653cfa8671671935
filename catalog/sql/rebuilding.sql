-- The last step of a rebuild: of what was staged, names and rows are made, in one transaction, in the order of this file.
-- Work tables are temporary; each is analysed by the caller, since nobody else does it for them. Whatever is decided here
-- is decided by ids, epochs and seqs alone, so that the order in which volumes were read does not matter.

-- memory --
-- Sorts and joins of as many rows as there are files, once in the life of a catalog and with nobody beside it: what is
-- meant for hundreds of sessions would write them all to temporary files. Until the transaction ends.
-- Rough statistics do for work tables that are joined whole.
SELECT set_config('work_mem', :work, true), set_config('maintenance_work_mem', :indexes, true),
       set_config('default_statistics_target', '10', true)

-- temporary_buffers --
-- As memory. Refused in a session that has had temporary tables: then it stays as it was.
SELECT set_config('temp_buffers', :tables, true)

-- catalogs --
-- Whose volumes they are.
SELECT lower(catalog_id) AS catalog_id, count(*) AS volumes FROM rebuild.volume
WHERE state IN ('scanned', 'foreign') AND catalog_id IS NOT NULL GROUP BY 1 ORDER BY 1

-- keep_catalog --
-- Of another catalog: its volumes are told of, and not touched.
UPDATE rebuild.volume SET state = 'foreign', why = 'it belongs to the catalog ' || lower(catalog_id)
WHERE state = 'scanned' AND lower(catalog_id) <> :catalog_id

-- adopt_catalog --
-- The labels cannot be changed, so the catalog takes the id that they carry.
UPDATE catalog_identity SET id = :catalog_id

-- kept_by_row --
-- What the database keeps for each row costs less for all rows at once: references, keys, indexes are made again behind
-- the rows, as the schema has them. In this order they go; in the other they come. A key goes behind those that refer to
-- it, of whatever table: those are empty, or small.
SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) AS drop,
       format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) AS make,
       CASE contype WHEN 'f' THEN 1 WHEN 'u' THEN 2 ELSE 4 END AS turn, conname::text AS name
FROM pg_constraint
WHERE contype IN ('f', 'u', 'p') AND conrelid IN ('node'::regclass, 'file'::regclass, 'copy'::regclass)
   OR contype = 'f' AND confrelid IN ('node'::regclass, 'file'::regclass, 'copy'::regclass)
UNION ALL
SELECT format('DROP INDEX %s', indexrelid::regclass), pg_get_indexdef(indexrelid), 3, indexrelid::regclass::text
FROM pg_index
WHERE indrelid IN ('node'::regclass, 'file'::regclass, 'copy'::regclass)
  AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = indexrelid AND c.contype IN ('p', 'u'))
ORDER BY turn, name

-- quiet --
-- The journal that was read back need not be written again; what is new in it is told at the end.
ALTER TABLE node DISABLE TRIGGER node_comes

-- quiet_directories --
-- As quiet.
ALTER TABLE directory DISABLE TRIGGER USER

-- quiet_files --
-- As quiet.
ALTER TABLE file DISABLE TRIGGER file_comes

-- loud --
-- As it was.
ALTER TABLE node ENABLE TRIGGER node_comes

-- loud_directories --
-- As it was.
ALTER TABLE directory ENABLE TRIGGER USER

-- loud_files --
-- As it was.
ALTER TABLE file ENABLE TRIGGER file_comes

-- count_segments --
-- The segments that are on the way from the newest one.
UPDATE rebuild.segment SET counts = catalog_id = :catalog_id AND number = ANY(CAST(:numbers AS bigint[]))

-- told --
-- Of each object the change with the highest seq is all that is true of it. Replicas are on disks, not on tapes; what has a
-- name and no id is in `named`.
CREATE TEMP TABLE told ON COMMIT DROP AS
SELECT DISTINCT ON (j.kind, j.id) j.kind, j.id, j.removed, j.entry, j.seq
FROM rebuild.journal j JOIN rebuild.segment s ON s.catalog_id = j.catalog_id AND s.number = j.segment AND s.counts
WHERE j.kind IN ('node', 'directory', 'file')
ORDER BY j.kind, j.id, j.seq DESC

-- told_key --
-- It is looked up by object from here on.
CREATE UNIQUE INDEX told_key ON told (kind, id)

-- named --
-- As told: the last word of operators on what drives and volumes are.
CREATE TEMP TABLE named ON COMMIT DROP AS
SELECT DISTINCT ON (j.kind, j.entry->>'name') j.kind, j.entry->>'name' AS name, j.removed, j.entry
FROM rebuild.journal j JOIN rebuild.segment s ON s.catalog_id = j.catalog_id AND s.number = j.segment AND s.counts
WHERE j.kind IN ('drive', 'volume')
ORDER BY j.kind, j.entry->>'name', j.seq DESC

-- told_node --
-- Names as the journal left them. Two of the same name can only come of a lost segment: the later one has it.
CREATE TEMP TABLE told_node ON COMMIT DROP AS
SELECT DISTINCT ON (parent, name) * FROM (
    SELECT id, CASE WHEN (entry->>'parent')::bigint = (SELECT t.id FROM told t WHERE t.kind = 'node' AND NOT t.removed
                                                       AND t.entry->>'parent' IS NULL ORDER BY t.seq DESC LIMIT 1)
                    THEN (SELECT n.id FROM node n WHERE n.parent IS NULL) ELSE (entry->>'parent')::bigint END AS parent,
           (entry->>'name') COLLATE "C" AS name, entry->>'kind' AS kind, seq
    FROM told WHERE kind = 'node' AND NOT removed AND entry->>'parent' IS NOT NULL
) n ORDER BY parent, name, seq DESC

-- told_node_key --
-- By id, and by name below.
CREATE UNIQUE INDEX told_node_key ON told_node (id)

-- told_node_name --
-- As told_node_key.
CREATE UNIQUE INDEX told_node_name ON told_node (parent, name)

-- tree --
-- The directories that can be reached from the root.
CREATE TEMP TABLE tree ON COMMIT DROP AS
WITH RECURSIVE down AS (
    SELECT id, NULL::bigint AS parent, ''::text COLLATE "C" AS name FROM node WHERE parent IS NULL
    UNION ALL
    SELECT n.id, n.parent, n.name FROM down d JOIN told_node n ON n.parent = d.id AND n.kind = 'directory'
)
SELECT id, parent, name, false AS made, 0::bigint AS mtime_ns FROM down

-- tree_key --
-- By id, and by name below.
CREATE UNIQUE INDEX tree_key ON tree (id)

-- tree_name --
-- As tree_key.
CREATE UNIQUE INDEX tree_name ON tree (parent, name)

-- placed --
-- One row a file. Of several copies the one that an index of the latest epoch told knows best what became of the file;
-- a null node there says that it had been removed. What the journal tells goes before.
CREATE TEMP TABLE placed ON COMMIT DROP AS
SELECT p.file AS id, p.size, p.adler32, p.digests, p.path, p.created, p.parent AS index_parent,
       f.id IS NOT NULL AS is_told,
       CASE WHEN f.removed THEN 'deleted' WHEN f.id IS NOT NULL THEN f.entry->>'state'
            WHEN p.told_by > 0 AND p.node IS NULL THEN 'deleted' ELSE 'live' END AS state,
       coalesce((f.entry->>'node')::bigint, p.node) AS node,
       coalesce((f.entry->>'mtime_ns')::bigint, p.mtime_ns) AS mtime_ns,
       coalesce((f.entry->>'mode')::integer, p.mode) AS mode,
       coalesce(f.entry->>'owner', p.owner) AS owner, coalesce(f.entry->>'grp', p.grp) AS grp,
       coalesce(f.entry->>'storage_class', p.storage_class) AS storage_class,
       coalesce(f.entry->>'collocation', p.collocation) AS collocation,
       (f.entry->>'deleted_at')::timestamptz AS deleted_at, f.entry->>'deleted_path' AS deleted_path,
       f.entry->>'deleted_by' AS deleted_by,
       NULL::bigint AS parent, NULL::text COLLATE "C" AS name, false AS is_new_node,
       left(p.path, -1 - length(p.stored_name)) AS directory, p.stored_name COLLATE "C" AS stored_name
FROM (
    SELECT DISTINCT ON (c.file) c.*, reverse(split_part(reverse(c.path), '/', 1)) AS stored_name
    FROM rebuild.copy c JOIN rebuild.volume v ON v.vid = c.volume AND v.state = 'scanned'
    ORDER BY c.file, c.told_epoch DESC, c.epoch DESC, c.volume, c.first_block, c.byte_offset
) p LEFT JOIN told f ON f.kind = 'file' AND f.id = p.file

-- node_is_gone --
-- Its node was removed later than anybody told of the file.
UPDATE placed p SET state = 'deleted', node = NULL FROM told n
WHERE p.state = 'live' AND n.kind = 'node' AND n.id = p.node AND n.removed

-- node_is_anothers --
-- A put over an existing name gives the node to the new file, whose id is higher.
UPDATE placed p SET state = 'deleted', node = NULL
WHERE p.state = 'live' AND EXISTS (SELECT FROM placed o WHERE o.node = p.node AND o.state = 'live' AND o.id > p.id)

-- node_is_a_directory --
-- Contradictions end with the file getting a node of its own.
UPDATE placed p SET node = NULL
WHERE EXISTS (SELECT FROM tree t WHERE t.id = p.node)
   OR EXISTS (SELECT FROM told_node n WHERE n.id = p.node AND n.kind <> 'file')

-- place_exactly --
-- The journal tells where it is.
UPDATE placed p SET parent = n.parent, name = n.name FROM told_node n
WHERE p.state = 'live' AND n.id = p.node AND n.kind = 'file' AND EXISTS (SELECT FROM tree t WHERE t.id = n.parent)

-- exact --
-- The names that the journal gives to files: no directory is made there.
CREATE TEMP TABLE exact ON COMMIT DROP AS
SELECT DISTINCT parent, name FROM placed WHERE state = 'live' AND parent IS NOT NULL

-- exact_key --
-- By name.
CREATE UNIQUE INDEX exact_key ON exact (parent, name)

-- place_by_parent --
-- The journal does not know its node, but the directory in which an index saw it.
UPDATE placed p SET parent = t.id, name = p.stored_name FROM tree t
WHERE p.state = 'live' AND p.parent IS NULL AND t.id = p.index_parent

-- way --
-- The rest goes where it was stored: all the directories on the way to there.
CREATE TEMP TABLE way ON COMMIT DROP AS
SELECT path, depth, regexp_replace(path, '/[^/]*$', '') AS above, regexp_replace(path, '^.*/', '') COLLATE "C" AS name,
       NULL::bigint AS parent, NULL::bigint AS node, max(mtime_ns) AS mtime_ns
FROM (
    SELECT '/' || array_to_string(components[1:depth], '/') AS path, depth, mtime_ns
    FROM (
        SELECT string_to_array(substr(directory, 2), '/') AS components, mtime_ns
        FROM (SELECT directory, max(mtime_ns) AS mtime_ns FROM placed
              WHERE state = 'live' AND parent IS NULL GROUP BY 1) d
        WHERE directory <> ''
    ) c, generate_series(1, cardinality(components)) AS depth
) p GROUP BY path, depth

-- way_depth --
-- Made from the root down, a depth at a time.
CREATE INDEX way_depth ON way (depth)

-- depth_max --
-- How many turns that takes.
SELECT coalesce(max(depth), 0) FROM way

-- way_parents --
-- The directories of one depth lie in those of the one before; none: something else has that name.
UPDATE way w SET parent = CASE WHEN w.depth = 1 THEN (SELECT id FROM node WHERE parent IS NULL) ELSE
    (SELECT u.node FROM way u WHERE u.depth = w.depth - 1 AND u.path = w.above) END
WHERE w.depth = :depth AND w.depth = 1

-- way_parents_below --
-- As way_parents, by a join.
UPDATE way w SET parent = u.node FROM way u
WHERE w.depth = :depth AND u.depth = w.depth - 1 AND u.path = w.above

-- way_known --
-- Those that the journal told.
UPDATE way w SET node = t.id FROM tree t
WHERE w.depth = :depth AND t.parent = w.parent AND t.name = w.name

-- way_made --
-- New ids above all that were ever seen, in the order of the paths. Not where a file has the name, or none can be.
WITH made AS (
    SELECT w.path, :base + row_number() OVER (ORDER BY w.path COLLATE "C") AS id FROM way w
    WHERE w.depth = :depth AND w.node IS NULL AND w.parent IS NOT NULL AND w.name <> ''
      AND NOT EXISTS (SELECT FROM exact e WHERE e.parent = w.parent AND e.name = w.name)
)
UPDATE way w SET node = made.id FROM made WHERE w.depth = :depth AND w.path = made.path

-- way_into_tree --
-- The new ones are directories like the others.
INSERT INTO tree (id, parent, name, made, mtime_ns)
SELECT node, parent, name, true, mtime_ns FROM way WHERE depth = :depth AND node > :base

-- place_by_path --
-- Into the directories made for it.
UPDATE placed p SET parent = w.node, name = p.stored_name FROM way w
WHERE p.state = 'live' AND p.parent IS NULL AND w.node IS NOT NULL AND w.path = p.directory

-- place_in_root --
-- The root is nobody's way.
UPDATE placed SET parent = (SELECT id FROM node WHERE parent IS NULL), name = stored_name
WHERE state = 'live' AND parent IS NULL AND directory = ''

-- without_place --
-- A directory has its name, or a file stands in its way: the recycle bin keeps it.
UPDATE placed p SET state = 'deleted', node = NULL
WHERE p.state = 'live' AND (p.parent IS NULL OR p.name = ''
    OR EXISTS (SELECT FROM tree t WHERE t.parent = p.parent AND t.name = p.name))

-- name_is_anothers --
-- The highest file id owns the name.
WITH beaten AS (
    SELECT id, row_number() OVER (PARTITION BY parent, name ORDER BY id DESC) AS rank FROM placed WHERE state = 'live'
)
UPDATE placed p SET state = 'deleted', node = NULL FROM beaten b WHERE b.id = p.id AND b.rank > 1

-- give_nodes --
-- Ids of nodes are kept where they are known; new ones in the order of the files.
WITH without AS (
    SELECT id, :base + row_number() OVER (ORDER BY id) AS node FROM placed WHERE state = 'live' AND node IS NULL
)
UPDATE placed p SET node = w.node, is_new_node = true FROM without w WHERE w.id = p.id

-- highest --
-- Everything seen, whether it came back or not: no id is given twice.
SELECT greatest(coalesce((SELECT max(id) FROM told WHERE kind IN ('node', 'directory')), 0),
                coalesce((SELECT max((entry->>'node')::bigint) FROM told WHERE kind = 'file'), 0),
                coalesce(c.node, 0), (SELECT max(id) FROM node)) AS node,
       greatest(coalesce(c.file, 0), coalesce((SELECT max(id) FROM told WHERE kind = 'file'), 0)) AS file,
       greatest(coalesce(c.epoch, 0), coalesce((SELECT max(epoch) FROM rebuild.volume), 0)) AS epoch,
       greatest((SELECT coalesce(max(last_seq), 0) FROM rebuild.segment),
                (SELECT coalesce(max(seq), 0) FROM journal)) AS seq,
       (SELECT coalesce(max(number), 0) FROM rebuild.segment) AS segment
FROM (SELECT max(greatest(node, parent)) AS node, max(file) AS file, max(epoch) AS epoch FROM rebuild.copy) c

-- set_sequence --
-- Only ever forward.
SELECT setval(pg_get_serial_sequence(:table, :column), greatest(:last, nextval(pg_get_serial_sequence(:table, :column))))

-- make_pools --
-- Those that the indexes name and no configuration does.
INSERT INTO pool (name, library)
SELECT DISTINCT ON (pool) pool, library FROM rebuild.volume WHERE state = 'scanned' AND pool <> ''
ORDER BY pool, library ON CONFLICT DO NOTHING

-- make_classes --
-- As many copies as were ever made of a file of it, into the pools where they are; operators may know better.
WITH found AS (
    SELECT p.storage_class AS name, v.pool, min(c.copy_number) AS first, max(c.copy_number) AS last
    FROM placed p JOIN rebuild.copy c ON c.file = p.id JOIN rebuild.volume v ON v.vid = c.volume AND v.state = 'scanned'
    GROUP BY 1, 2
), named AS (
    SELECT name, max(last) AS copies,
           coalesce(array_agg(pool ORDER BY first, pool) FILTER (WHERE pool <> ''), '{}') AS pools
    FROM found GROUP BY name
    UNION ALL
    SELECT DISTINCT entry->>'storage_class', 1, '{}'::text[] FROM told
    WHERE kind = 'directory' AND NOT removed AND entry->>'storage_class' IS NOT NULL
)
INSERT INTO storage_class (name, copies, pools)
SELECT DISTINCT ON (name) name, least(copies, greatest(cardinality(given), 1), 8), given
FROM (SELECT name, copies, CASE WHEN cardinality(pools) > 0 THEN pools ELSE
             (SELECT coalesce(array_agg(p.name ORDER BY p.name), '{}') FROM pool p) END AS given FROM named) n
WHERE NOT EXISTS (SELECT FROM storage_class s WHERE s.name = n.name) AND cardinality(given) > 0
ORDER BY name, copies DESC, cardinality(given) DESC

-- missing_classes --
-- Without any pool there is none that a class could name.
SELECT DISTINCT storage_class FROM placed p
WHERE NOT EXISTS (SELECT FROM storage_class s WHERE s.name = p.storage_class) ORDER BY 1

-- make_volumes --
-- The end is verified before the next write. Without an index the pool is the one that the classes of its files name in
-- its library. What was only labelled counts as blank: whoever wants it labels it again, with the next generation.
INSERT INTO volume (vid, library, pool, state, generation, capacity_bytes, written_bytes, block_size, tape_files,
                    end_block, end_verified, index_block, indexed_tape_files, full_at, medium)
SELECT v.vid, v.library,
       CASE WHEN v.state <> 'scanned' OR v.tape_files = 0 THEN NULL WHEN v.pool <> '' THEN v.pool ELSE
           (SELECT min(p.name) FROM pool p WHERE p.library = v.library AND p.name IN (
                SELECT unnest(s.pools) FROM storage_class s
                WHERE s.name IN (SELECT c.storage_class FROM rebuild.copy c WHERE c.volume = v.vid))
            HAVING count(*) = 1) END,
       CASE WHEN v.state = 'scanned' AND v.tape_files > 0 THEN 'active' ELSE 'blank' END,
       CASE WHEN v.state = 'scanned' THEN v.generation ELSE 0 END, coalesce(v.capacity_bytes, 0),
       coalesce(v.written_bytes, (SELECT sum(c.size) FROM rebuild.copy c WHERE c.volume = v.vid), 0),
       v.block_size, v.tape_files, CASE WHEN v.tape_files > 0 THEN v.end_block ELSE 0 END, v.tape_files = 0,
       v.index_block, v.indexed_tape_files, CASE WHEN v.is_full AND v.tape_files > 0 THEN capstan_now() END,
       coalesce((SELECT n.entry->>'medium' FROM named n WHERE n.kind = 'volume' AND n.name = v.vid AND NOT n.removed), '')
FROM rebuild.volume v WHERE v.state IN ('scanned', 'blank', 'foreign', 'failed') ORDER BY v.vid

-- without_pool --
-- Nothing can be added to them before an operator says where they belong.
SELECT vid FROM volume WHERE state = 'active' AND pool IS NULL ORDER BY vid

-- close_volumes --
-- Their last index says that nothing more is to be written.
UPDATE volume SET state = 'full' WHERE full_at IS NOT NULL AND state = 'active'

-- disable_volumes --
-- Somebody else's, or not to be read: nobody labels or writes them before an operator has looked.
UPDATE volume t SET state = 'disabled', reason = v.why, changed_by = 'rebuild'
FROM rebuild.volume v WHERE v.vid = t.vid AND v.state IN ('foreign', 'failed')

-- name_drives --
-- Also those of a library that is attached later: a drive that is known keeps its model.
INSERT INTO drive (name, library, model)
SELECT n.name, n.entry->>'library', n.entry->>'model' FROM named n
WHERE n.kind = 'drive' AND NOT n.removed AND EXISTS (SELECT FROM library l WHERE l.name = n.entry->>'library')
ON CONFLICT (name) DO UPDATE SET model = excluded.model WHERE drive.model <> excluded.model

-- make_directory_nodes --
-- All but the root, which every catalog has.
INSERT INTO node (id, parent, name, kind) OVERRIDING SYSTEM VALUE
SELECT id, parent, name, 'directory' FROM tree WHERE parent IS NOT NULL ORDER BY id

-- make_directories --
-- What the journal tells of them; those made for a path are Capstan's own.
INSERT INTO directory (node, owner, grp, mode, mtime_ns, storage_class)
SELECT t.id, coalesce(d.entry->>'owner', 'capstan'), coalesce(d.entry->>'grp', 'capstan'),
       coalesce((d.entry->>'mode')::integer, 493), coalesce((d.entry->>'mtime_ns')::bigint, t.mtime_ns),
       (SELECT s.name FROM storage_class s WHERE s.name = d.entry->>'storage_class')
FROM tree t LEFT JOIN told d ON d.kind = 'directory' AND d.id = t.id AND NOT d.removed
WHERE t.parent IS NOT NULL OR d.id IS NOT NULL
ON CONFLICT (node) DO UPDATE SET owner = excluded.owner, grp = excluded.grp, mode = excluded.mode,
    mtime_ns = excluded.mtime_ns, storage_class = excluded.storage_class

-- make_file_nodes --
-- Behind the directories that they are in.
INSERT INTO node (id, parent, name, kind) OVERRIDING SYSTEM VALUE
SELECT node, parent, name, 'file' FROM placed WHERE state = 'live' ORDER BY node

-- make_files --
-- What was purged begins as deleted, since nothing may begin as purged.
INSERT INTO file (id, node, state, size, adler32, digests, mtime_ns, mode, owner, grp, storage_class, stored_path,
                  collocation, created_at, deleted_at, deleted_path, deleted_by) OVERRIDING SYSTEM VALUE
SELECT id, CASE WHEN state = 'live' THEN node END, CASE WHEN state = 'live' THEN 'live' ELSE 'deleted' END, size, adler32,
       digests::jsonb, mtime_ns, mode, owner, grp, storage_class, path, collocation,
       timestamptz 'epoch' + make_interval(secs => created / 1e6::float8),
       CASE WHEN state <> 'live' THEN coalesce(deleted_at, capstan_now()) END,
       CASE WHEN state <> 'live' THEN coalesce(deleted_path, path) END,
       CASE WHEN state <> 'live' THEN coalesce(deleted_by, 'rebuild') END
FROM placed ORDER BY id

-- purge_files --
-- They were out of the recycle bin already.
UPDATE file f SET state = 'purged' FROM placed p WHERE p.id = f.id AND p.state = 'purged'

-- make_copies --
-- A copy of the same id with another size or checksum is of a file that a restored catalog forgot: it is not this one's.
-- Numbered here, and the sequence is set behind it: to ask it for each costs more than the number.
INSERT INTO copy (id, file, copy_number, volume, generation, tape_file, first_block, byte_offset, length, epoch, created_at)
OVERRIDING SYSTEM VALUE
SELECT row_number() OVER (), c.file, c.copy_number, c.volume, c.generation, c.tape_file, c.first_block, c.byte_offset, c.size,
       c.epoch, (SELECT capstan_now())
FROM rebuild.copy c JOIN rebuild.volume v ON v.vid = c.volume AND v.state = 'scanned'
JOIN placed p ON p.id = c.file AND p.size = c.size AND p.adler32 = c.adler32

-- all_copies --
-- As many as were staged, if none is strange.
SELECT (SELECT count(*) FROM rebuild.copy c JOIN rebuild.volume v ON v.vid = c.volume AND v.state = 'scanned')
     = (SELECT count(*) FROM copy)

-- strange_copies --
-- See make_copies; told to the person who rebuilds.
SELECT c.volume, c.file, c.path FROM rebuild.copy c JOIN rebuild.volume v ON v.vid = c.volume AND v.state = 'scanned'
JOIN placed p ON p.id = c.file AND (p.size <> c.size OR p.adler32 <> c.adler32)
ORDER BY c.volume, c.first_block, c.byte_offset LIMIT 1000

-- make_dead --
-- A tape file may be told as dead by more than one.
INSERT INTO dead_extent (volume, generation, tape_file, first_block, blocks, why)
SELECT DISTINCT ON (d.volume, d.generation, d.first_block) d.volume, d.generation, d.tape_file, d.first_block, d.blocks, d.why
FROM rebuild.dead d JOIN rebuild.volume v ON v.vid = d.volume AND v.state = 'scanned'
ORDER BY d.volume, d.generation, d.first_block, d.told_by DESC

-- make_segments --
-- So that the next one names the newest of them, and what is not on tape yet is put there.
INSERT INTO journal_segment (number, first_seq, last_seq, entries, until_transaction, until_seq, bytes, adler32, path,
                             file, closed_at)
SELECT s.number, s.first_seq, s.last_seq, s.entries, '0', 0, s.bytes, s.adler32, s.path,
       (SELECT max(f.id) FROM file f WHERE f.stored_path = :directory || to_char(s.number, 'FM0000000000') || '.jsonl.gz'
        AND f.adler32 = s.adler32), capstan_now()
FROM rebuild.segment s WHERE s.counts

-- journal_nodes --
-- What was decided here and stands nowhere else: the next rebuild must decide the same.
INSERT INTO journal (kind, id, entry)
SELECT 'node', n.id, jsonb_build_object('parent', n.parent, 'name', n.name, 'kind', n.kind)
FROM node n WHERE n.id > :base ORDER BY n.id

-- journal_directories --
-- As journal_nodes.
INSERT INTO journal (kind, id, entry)
SELECT 'directory', d.node, jsonb_build_object('owner', d.owner, 'grp', d.grp, 'mode', d.mode, 'mtime_ns', d.mtime_ns,
                                               'storage_class', d.storage_class)
FROM directory d WHERE d.node > :base ORDER BY d.node

-- journal_files --
-- As journal_nodes; and what lost its name.
INSERT INTO journal (kind, id, entry)
SELECT 'file', f.id, file_entry(f) FROM file f JOIN placed p ON p.id = f.id
WHERE p.is_new_node OR p.state <> 'live' AND p.deleted_at IS NULL ORDER BY f.id

-- outcome --
-- For the person who rebuilds, and the audit.
SELECT (SELECT count(*) FROM file WHERE state = 'live') AS files, (SELECT count(*) FROM file WHERE state <> 'live') AS deleted,
       (SELECT count(*) FROM copy) AS copies, (SELECT count(*) FROM directory) AS directories,
       (SELECT count(*) FROM volume) AS volumes, (SELECT count(*) FROM journal_segment) AS segments,
       (SELECT count(*) FROM told t WHERE t.kind = 'file' AND NOT t.removed AND t.entry->>'state' = 'live'
        AND NOT EXISTS (SELECT FROM placed p WHERE p.id = t.id)) AS not_on_tape

-- refused --
-- Volumes that did not come back, and why.
SELECT vid, state, why FROM rebuild.volume WHERE state IN ('foreign', 'failed') ORDER BY vid

-- problems --
-- What could not be read or believed.
SELECT volume, what FROM rebuild.problem ORDER BY volume, what LIMIT 1000

-- clear_up --
-- The rebuild is done.
DROP SCHEMA rebuild CASCADE
