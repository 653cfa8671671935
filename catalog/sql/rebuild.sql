-- What a rebuild stages, in a schema of its own that goes when it is done: `catalog.rebuild` fills it volume by volume,
-- `catalog.rebuilding` makes the catalog of it. Logged tables: a rebuild of a big site takes days, and is resumed.

-- stage_schema --
-- Its being there says that a rebuild was begun and is not finished.
CREATE SCHEMA rebuild

-- stage_volume --
-- One row a cartridge; only what is `scanned` counts.
CREATE TABLE rebuild.volume (
    vid text PRIMARY KEY, library text NOT NULL, state text NOT NULL DEFAULT 'found'
        CHECK (state IN ('found', 'scanning', 'scanned', 'blank', 'foreign', 'failed')),
    why text NOT NULL DEFAULT '', catalog_id text, generation integer NOT NULL DEFAULT 0,
    block_size integer NOT NULL DEFAULT 262144, pool text NOT NULL DEFAULT '', tape_files integer NOT NULL DEFAULT 0,
    end_block bigint NOT NULL DEFAULT 0, index_block bigint NOT NULL DEFAULT 0,
    indexed_tape_files integer NOT NULL DEFAULT 0, is_full boolean NOT NULL DEFAULT false,
    epoch bigint NOT NULL DEFAULT 0, capacity_bytes bigint, written_bytes bigint, files bigint NOT NULL DEFAULT 0
)

-- stage_copy --
-- Without any index: it is filled by COPY and read as a whole. told_by: the index's tape file, 0: the copy's header.
CREATE TABLE rebuild.copy (
    volume text NOT NULL, generation integer NOT NULL, told_by integer NOT NULL, told_epoch bigint NOT NULL,
    tape_file integer NOT NULL, first_block bigint NOT NULL, byte_offset bigint NOT NULL, file bigint NOT NULL,
    copy_number smallint NOT NULL, size bigint NOT NULL, adler32 text NOT NULL, digests text NOT NULL,
    path text NOT NULL, mtime_ns bigint NOT NULL, mode integer NOT NULL, owner text NOT NULL, grp text NOT NULL,
    storage_class text NOT NULL, collocation text NOT NULL, node bigint, parent bigint, created bigint NOT NULL,
    epoch bigint NOT NULL
)

-- stage_dead --
-- Tape files that no copy refers to.
CREATE TABLE rebuild.dead (
    volume text NOT NULL, generation integer NOT NULL, told_by integer NOT NULL, tape_file integer NOT NULL,
    first_block bigint NOT NULL, blocks bigint NOT NULL, why text NOT NULL
)

-- stage_problem --
-- For the person who rebuilds.
CREATE TABLE rebuild.problem (volume text NOT NULL, what text NOT NULL)

-- stage_segment --
-- Segments of the journal, of every catalog that was met; `counts` is set at the end, when all are known.
CREATE TABLE rebuild.segment (
    number bigint NOT NULL, catalog_id text NOT NULL, incarnation text NOT NULL, previous bigint NOT NULL,
    first_seq bigint NOT NULL, last_seq bigint NOT NULL, entries bigint NOT NULL, bytes bigint NOT NULL,
    adler32 text NOT NULL, path text NOT NULL, counts boolean NOT NULL DEFAULT false,
    PRIMARY KEY (catalog_id, number)
)

-- stage_journal --
-- Their changes.
CREATE TABLE rebuild.journal (
    catalog_id text NOT NULL, segment bigint NOT NULL, seq bigint NOT NULL, kind text NOT NULL, id bigint NOT NULL, removed boolean NOT NULL,
    entry jsonb NOT NULL
)

-- is_begun --
-- See stage_schema.
SELECT to_regclass('rebuild.volume') IS NOT NULL

-- what_is_there --
-- A rebuild is for an empty catalog: the root, and perhaps libraries, pools and classes that a configuration names.
SELECT (SELECT count(*) FROM (SELECT FROM file LIMIT 1) f) AS files,
       (SELECT count(*) FROM (SELECT FROM node WHERE parent IS NOT NULL LIMIT 1) n) AS nodes,
       (SELECT count(*) FROM (SELECT FROM volume LIMIT 1) v) AS volumes

-- live_servers --
-- They would plan, label and write while nobody knows yet what is on the volumes.
SELECT name FROM server
WHERE kind = 'tapeserver' AND heartbeat_at > capstan_now() - make_interval(secs => :seconds) ORDER BY name

-- add_volumes --
-- Known ones stay as they are: a rebuild that goes on does not begin anew.
INSERT INTO rebuild.volume (vid, library) SELECT unnest(CAST(:vids AS text[])), :library ON CONFLICT DO NOTHING

-- forget_begun --
-- What a scan had told when it was broken off; it will be told again.
DELETE FROM rebuild.copy c USING rebuild.volume v WHERE v.vid = c.volume AND v.state NOT IN ('scanned', 'foreign')

-- forget_begun_dead --
-- As forget_begun.
DELETE FROM rebuild.dead d USING rebuild.volume v WHERE v.vid = d.volume AND v.state NOT IN ('scanned', 'foreign')

-- forget_begun_problems --
-- As forget_begun.
DELETE FROM rebuild.problem p USING rebuild.volume v WHERE v.vid = p.volume AND v.state NOT IN ('scanned', 'foreign')

-- try_again --
-- What failed may have been the drive's fault; what is blank or foreign was read.
UPDATE rebuild.volume SET state = 'found', why = '', files = 0 WHERE state IN ('scanning', 'failed')

-- withdraw_copies --
-- The index that told them is damaged further on.
DELETE FROM rebuild.copy WHERE volume = :volume AND told_by = :told_by

-- withdraw_dead --
-- As withdraw_copies.
DELETE FROM rebuild.dead WHERE volume = :volume AND told_by = :told_by

-- raise_epochs --
-- The sequence only grows: libraries refuse whoever comes with an epoch that is not above all that they have seen.
SELECT setval(pg_get_serial_sequence('mount', 'epoch'), :seen)
WHERE :seen > (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM mount_epoch_seq)
