-- What an index of a volume tells, read in one snapshot.

-- about --
-- Whether anything stands on the tape that no index tells of, and whether the drive may be kept to write one.
select v.vid as volume, v.generation, v.pool, v.block_size, v.tape_files, v.index_block, v.indexed_tape_files, v.state,
       v.state in ('active', 'full', 'closed') and d.state = 'up' and l.state = 'up' as may_write,
       (select id from catalog_identity) as catalog_id
from mount m join volume v on v.vid = m.volume join drive d on d.name = m.drive join library l on l.name = m.library
where m.epoch = :epoch;

-- count --
-- By the same index as the pages; a session's index reads only what stands behind the last one.
select count(*) from copy c
where c.volume = :volume and c.generation = :generation and c.first_block >= :from_block
  and c.tape_file between :first_tape_file and :last_tape_file and c.broken_at is null;

-- page --
-- Keyset by the unique index (volume, generation, first_block, byte_offset, file). A copy that was found broken is left
-- out: nobody should come to believe in it again. A removed file's copy is told of, without a name.
select c.tape_file, c.first_block, c.byte_offset, c.copy_number, c.epoch, f.id as file_id, f.size, f.adler32, f.digests,
       f.stored_path, f.mtime_ns, f.mode, f.owner, f.grp, f.storage_class, f.collocation, n.id as node, n.parent,
       cast(extract(epoch from f.created_at) * 1000000 as bigint) as created
from copy c join file f on f.id = c.file left join node n on n.id = f.node
where c.volume = :volume and c.generation = :generation
  and (c.first_block, c.byte_offset, c.file) > (:after_block, :after_offset, :after_file)
  and c.tape_file between :first_tape_file and :last_tape_file and c.broken_at is null
order by c.first_block, c.byte_offset, c.file limit :limit;

-- dead --
-- Few: what went wrong while it was written, and what nobody needed.
select tape_file, first_block, blocks, why from dead_extent
where volume = :volume and generation = :generation and tape_file between :first_tape_file and :last_tape_file
order by tape_file, first_block;
