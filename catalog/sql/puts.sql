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
INSERT INTO file (node, size, adler32, digests, mtime_ns, mode, owner, grp, storage_class, stored_path)
VALUES (:node, :size, :adler32, CAST(:digests AS jsonb), :mtime_ns, :mode, :owner, :group, :storage_class,
        rtrim(node_path(:parent), '/') || '/' || CAST(:name AS text))
RETURNING *

-- take_reservation --
-- Reservation -> replica. No row: the space was given back, because this PUT was repeated or came too late; then
-- nothing of the transaction may stand.
WITH taken AS (
    DELETE FROM reservation WHERE id = :id AND kind = 'put' RETURNING id, cache_server, bytes
), arrived AS (
    INSERT INTO replica (id, file, cache_server, size, origin)
    SELECT id, CAST(:file AS bigint), cache_server, CAST(:size AS bigint), 'put' FROM taken
)
SELECT cache_server, bytes FROM taken

-- count_in --
-- The last statement before COMMIT: every put of a server changes this row, and holds it until its commit is on disk.
-- So it comes behind the reservation, against the lock order: only a release of this very reservation could cross it,
-- and then one of the two is run again.
UPDATE cache_server SET reserved_bytes = reserved_bytes - CAST(:reserved AS bigint),
                        used_bytes = used_bytes + CAST(:size AS bigint)
WHERE name = :server

-- first_result --
-- What the first PUT with this reservation made, whatever has become of it since.
SELECT f.* FROM replica r JOIN file f ON f.id = r.file WHERE r.id = :id AND r.origin = 'put'

-- first_result_by_name --
-- The replica may have been evicted since: then the file under the name, if it can be the one.
SELECT f.* FROM node n JOIN file f ON f.node = n.id WHERE n.parent = :parent AND n.name = :name AND f.owner = :owner
   AND (CAST(:size AS bigint) IS NULL OR f.size = :size) AND f.created_at > capstan_now() - interval '1 day'

-- volume_bytes_max --
-- The largest cartridge in any pool of the class. Without any cartridge yet (null) nothing is refused.
SELECT max(v.capacity_bytes) FROM storage_class s JOIN volume v ON v.pool = ANY (s.pools)
WHERE s.name = :storage_class AND v.state IN ('blank', 'active', 'full', 'disabled')

-- url_expiry --
-- By the catalog's clock, which the cache servers follow too.
SELECT CAST(extract(epoch FROM capstan_now()) AS double precision) + CAST(:lifetime_seconds AS double precision)
