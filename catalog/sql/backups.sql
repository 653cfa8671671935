-- began --
-- Not later than the oldest change that the snapshot may lack: a change carries the time at which it was made, and may
-- be committed after the snapshot was taken. So what is older than this is surely in the backup.
SELECT least(capstan_now(), (SELECT min(xact_start) FROM pg_stat_activity
                             WHERE datname = current_database() AND backend_xid IS NOT NULL))

-- record --
-- Its bytes are on the disk, and their sum was taken from what the disk gave back; in a moment it has its name.
INSERT INTO catalog_backup (began_at, path, bytes, sha256) VALUES (:began_at, :path, :bytes, :sha256) RETURNING id

-- paths --
-- What is there, or should be.
SELECT path FROM catalog_backup WHERE removed_at IS NULL

-- verified --
-- Only behind a look at all that is in it.
UPDATE catalog_backup SET verified_at = capstan_now() WHERE id = :id

-- surplus --
-- All but the newest, counted among those that were verified; what was never verified goes with its elders. The newest
-- by number: a clock that was ahead for a while must not make old ones look young.
SELECT id, path FROM catalog_backup
WHERE removed_at IS NULL AND id < coalesce(
    (SELECT id FROM catalog_backup WHERE removed_at IS NULL AND verified_at IS NOT NULL
     ORDER BY id DESC OFFSET :keep - 1 LIMIT 1), 0)
ORDER BY id

-- removed --
-- Behind the unlink; the row stays for the record.
UPDATE catalog_backup SET removed_at = capstan_now() WHERE id = :id

-- newest_verified --
-- What may be relied upon.
SELECT id, began_at, path, bytes, sha256, verified_at, extract(epoch FROM capstan_now() - began_at) AS age_seconds
FROM catalog_backup WHERE verified_at IS NOT NULL AND removed_at IS NULL ORDER BY id DESC LIMIT 1

-- anything_on_tape --
-- Before the first copy there is nothing that a backup could bring back and a new first start could not.
SELECT EXISTS (SELECT FROM copy)
