-- hold_parent --
-- FOR KEY SHARE: any number of puts go on below one directory and update nothing on it; rmdir waits for them.
SELECT id FROM node WHERE id = :parent AND kind = 'directory' FOR KEY SHARE

-- insert_name --
-- The unique index decides races. A put of the same name that is not committed yet is waited for here.
INSERT INTO node (parent, name, kind) VALUES (:parent, :name, 'file') ON CONFLICT (parent, name) DO NOTHING RETURNING id

-- lock_name --
-- The name was there: from here on nobody else replaces or removes it.
SELECT n.id, n.kind, f.id AS file FROM node n LEFT JOIN file f ON f.node = n.id
WHERE n.parent = :parent AND n.name = :name FOR UPDATE OF n

-- insert_file --
-- The path is the name when written: it goes on tape with the file.
INSERT INTO file (node, size, adler32, digests, mtime_ns, mode, owner, grp, storage_class, collocation, stored_path)
VALUES (:node, :size, :adler32, CAST(:digests AS jsonb), :mtime_ns, :mode, :owner, :group, :storage_class, :collocation,
        rtrim(node_path(:parent), '/') || '/' || CAST(:name AS text))
RETURNING *

-- take_reservation --
-- Reservation -> replica. No row: the space was given back or the put abandoned (it has no path any more), because it was
-- repeated or came too late; then nothing of the transaction may stand.
WITH taken AS (
    DELETE FROM reservation WHERE id = :id AND kind = 'put' AND path IS NOT NULL RETURNING id, cache_server, bytes
), arrived AS (
    INSERT INTO replica (id, file, cache_server, size, origin)
    SELECT id, CAST(:file AS bigint), cache_server, CAST(:size AS bigint), 'put' FROM taken
)
SELECT cache_server, bytes FROM taken

-- give_back --
-- Only what was reserved and not used: the server's row, which every put of that server wants, is left alone when the
-- size was known beforehand. Last before COMMIT and so behind the reservation, against the lock order: only a release of
-- this very reservation could cross it, and then one of the two is run again.
UPDATE cache_server SET taken_bytes = taken_bytes - CAST(:bytes AS bigint) WHERE name = :server

-- first_result --
-- What the first PUT with this reservation made, whatever has become of it since.
SELECT f.* FROM replica r JOIN file f ON f.id = r.file WHERE r.id = :id AND r.origin = 'put'

-- first_result_by_name --
-- The replica may have been evicted since: then the file under the name, if it can be the one.
SELECT f.* FROM node n JOIN file f ON f.node = n.id WHERE n.parent = :parent AND n.name = :name AND f.owner = :owner
   AND (CAST(:size AS bigint) IS NULL OR f.size = :size) AND f.created_at > capstan_now() - interval '1 day'

-- judge --
-- All that a PUT is judged by, in one round trip: how far its path exists and what is at its end, the storage class and
-- its largest cartridge (null: none yet, and nothing is refused), and when a URL made now ends, by the catalog's clock.
-- Nothing is held: the commit asks again.
WITH RECURSIVE walk (depth, id, kind) AS (
    SELECT 0, id, kind FROM node WHERE parent IS NULL
    UNION ALL
    SELECT walk.depth + 1, n.id, n.kind
    FROM walk JOIN node n ON n.parent = walk.id AND n.name = (CAST(:names AS text[]))[walk.depth + 1]
), class AS (
    SELECT coalesce(
        CAST(:storage_class AS text),
        (SELECT d.storage_class FROM walk JOIN directory d ON d.node = walk.id
         WHERE d.storage_class IS NOT NULL ORDER BY walk.depth DESC LIMIT 1),
        (SELECT name FROM storage_class WHERE is_default)) AS name
)
SELECT (SELECT id FROM walk WHERE depth = :depth - 1 AND kind = 'directory') AS parent,
       (SELECT kind FROM walk WHERE depth = :depth) AS present,
       s.name AS storage_class,
       (SELECT max(v.capacity_bytes) FROM volume v
        WHERE v.pool = ANY (s.pools) AND (v.state = 'blank' OR volume_is_good(v.state))) AS volume_bytes_max,
       CAST(extract(epoch FROM capstan_now()) AS double precision) + CAST(:lifetime_seconds AS double precision)
           AS expires_at
FROM class LEFT JOIN storage_class s ON s.name = class.name

-- reservation_of --
-- Whether a put can still become a file.
SELECT EXISTS (SELECT FROM reservation WHERE id = :id AND kind = 'put' AND path IS NOT NULL)

-- store_many --
-- Puts whose size was known and whose names are free, each with its node, file and replica, in one statement; the space
-- was charged with the reservation. Whatever is not so simple (a name that is taken, a reservation that is gone, a
-- parent that is no directory) is left as it was, has no row in the answer, and is committed by itself.
-- Parents are held as by `hold_parent`; names in their order, so that two servers' batches wait and never cross.
WITH given AS (
    SELECT DISTINCT ON (parent, name) *
    FROM unnest(CAST(:ids AS bigint[]), CAST(:parents AS bigint[]), CAST(:names AS text[]), CAST(:sizes AS bigint[]),
                CAST(:adler32s AS text[]), CAST(:digests AS text[]), CAST(:mtimes_ns AS bigint[]),
                CAST(:modes AS integer[]), CAST(:owners AS text[]), CAST(:groups AS text[]), CAST(:classes AS text[]),
                CAST(:collocations AS text[]))
         AS g (id, parent, name, size, adler32, digests, mtime_ns, mode, owner, grp, storage_class, collocation)
    ORDER BY parent, name, id
), held AS (
    SELECT id FROM node WHERE id IN (SELECT parent FROM given) AND kind = 'directory' ORDER BY id FOR KEY SHARE
), promised AS (
    SELECT id, bytes FROM reservation
    WHERE id IN (SELECT id FROM given) AND kind = 'put' AND path IS NOT NULL ORDER BY id FOR UPDATE
), named AS (
    INSERT INTO node (parent, name, kind)
    SELECT g.parent, g.name, 'file'
    FROM given g JOIN held h ON h.id = g.parent JOIN promised p ON p.id = g.id AND p.bytes = g.size
    ORDER BY g.parent, g.name ON CONFLICT (parent, name) DO NOTHING RETURNING id, parent, name
), stored AS (
    INSERT INTO file (node, size, adler32, digests, mtime_ns, mode, owner, grp, storage_class, collocation, stored_path)
    SELECT n.id, g.size, g.adler32, CAST(g.digests AS jsonb), g.mtime_ns, g.mode, g.owner, g.grp, g.storage_class,
           g.collocation,
           rtrim(node_path(g.parent), '/') || '/' || g.name
    FROM named n JOIN given g ON g.parent = n.parent AND g.name = n.name ORDER BY n.id RETURNING *
), spent AS (
    DELETE FROM reservation r USING given g JOIN named n ON n.parent = g.parent AND n.name = g.name
    WHERE r.id = g.id RETURNING r.id, r.cache_server, n.id AS node
), arrived AS (
    INSERT INTO replica (id, file, cache_server, size, origin)
    SELECT s.id, f.id, s.cache_server, f.size, 'put' FROM spent s JOIN stored f ON f.node = s.node
)
SELECT s.id AS replica, f.* FROM spent s JOIN stored f ON f.node = s.node ORDER BY f.id
