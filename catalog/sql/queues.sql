-- The queues to and from tape. Two rules keep counters and rows equal without ever counting:
--   * a queue_delta row is written in the transaction, and from the very rows, that it speaks of;
--   * the demand of a recall changes only under the lock of its recall row, taken by an EARLIER statement: a later
--     statement has a new snapshot, so that it sees the demand that the former owner of the lock has left.

-- fence --
-- Shared with other work of this mount, excluded by its end (a DELETE): nothing is claimed for a mount that is over.
select volume, pool, library from mount where epoch = :epoch for key share;

-- recalls_on_disk --
-- Locked against the step to EVICTING, so that "it is on disk" still holds when the waiter's row is committed. A
-- replica whose server does not answer counts only when there is no tape copy to read instead.
select r.file from replica r join cache_server s on s.name = r.cache_server
where r.file = any(cast(:files as bigint[])) and r.state = 'on_disk'
  and ((s.state = 'up' and s.heartbeat_at > capstan_now() - make_interval(secs => :heartbeat_seconds_max))
       or not exists (select from present_copy c where c.file = r.file))
order by r.id for share of r;

-- recalls_insert --
-- Whether there is anything to read, the demand says (`demand_insert`): a recall without any ends in this transaction.
-- One recall per file however many ask; in the order of ids, so that two askers of the same files cannot deadlock.
with asked as materialized (select capstan_now() as at)
insert into recall (file, bytes, owner, grp, activity, priority, cohort, created_at, not_before)
select f.id, f.size, :owner, :group, :activity, :priority, t.cohort, asked.at, asked.at
from asked cross join unnest(cast(:files as bigint[]), cast(:cohorts as bigint[])) as t (file, cohort)
join file f on f.id = t.file
where f.state = 'live'
order by f.id
on conflict (file) do update set abandoned = false
returning file, (xmax = 0) as fresh;

-- demand_insert --
-- Late binding: demand at every copy that is not gone, wherever it is and whether or not it can be mounted now. The
-- recall's row is locked already. A copy that has just failed is wanted again only after the back-off. Recalls of one
-- request were asked for at one time, which is taken apart once; and rows are looked up once, however many there are.
with asked as materialized (
    select file, owner, grp, activity, priority, cohort, bytes, created_at, not_before
    from recall where file = any(cast(:files as bigint[])) and state = 'queued'
), added as (
    insert into demand (volume, first_block, file, byte_offset, copy, created_at)
    select c.volume, c.first_block, r.file, c.byte_offset, c.id,
           case when c.volume = :slow_volume then greatest(r.created_at, r.not_before) else r.created_at end
    from asked r join present_copy c on c.file = r.file
    on conflict do nothing
    returning volume, file
), told as (
    insert into queue_delta (kind, key, owner, grp, activity, priority, cohort, files, bytes, urgent, asked)
    select 'recall', volume, owner, grp, activity, priority, cohort, sum(files), sum(bytes), 0,
           sum(files * whole_seconds(created_at))
    from (select a.volume, r.owner, r.grp, r.activity, r.priority, r.cohort, r.created_at, count(*) as files,
                 sum(r.bytes) as bytes
          from added a join asked r on r.file = a.file group by 1, 2, 3, 4, 5, 6, 7) as at_one_time
    group by 2, 3, 4, 5, 6, 7
)
select distinct file from added;

-- recalls_lock --
-- The lock that every change of these recalls' demand wants first; in the order of ids.
select file, state, abandoned from recall where file = any(cast(:files as bigint[])) order by file for update;

-- recalls_remove --
-- The rows are locked already. Demand goes with its deltas before the cascade would take it without them.
with doomed as (
    select file, bytes, owner, grp, activity, priority, cohort, created_at from recall where file = any(cast(:files as bigint[]))
), removed as (
    delete from demand d using doomed where d.file = doomed.file returning d.volume, d.file
), told as (
    insert into queue_delta (kind, key, owner, grp, activity, priority, cohort, files, bytes, urgent, asked)
    select 'recall', r.volume, d.owner, d.grp, d.activity, d.priority, d.cohort, -count(*), -sum(d.bytes), 0,
           -sum(whole_seconds(d.created_at))
    from removed r join doomed d on d.file = r.file group by 2, 3, 4, 5, 6, 7
), gone as (
    delete from recall using doomed where recall.file = doomed.file returning recall.file
)
select file from gone;

-- recalls_without_waiter --
-- Asked again under the recalls' locks: a waiter that joined meanwhile holds them.
select r.file, r.state from recall r where r.file = any(cast(:files as bigint[]))
  and not exists (select from stage_item i where i.file = r.file and i.state in ('submitted', 'started'));

-- recalls_abandon --
-- A mount has them; its session drops them when it looks, and their rows end with whatever the mount makes of them.
update recall set abandoned = true where file = any(cast(:files as bigint[])) and state = 'claimed';

-- recalls_wanted --
-- Taken by nobody, so nothing is locked: whoever claims, looks again.
select d.file, c.tape_file, d.first_block, d.byte_offset, r.bytes
from demand d join recall r on r.file = d.file join copy c on c.id = d.copy
where d.volume = :volume and (d.first_block, d.byte_offset) >= (:after_block, :after_offset)
  and d.created_at <= capstan_now() and r.state = 'queued'
order by d.first_block, d.byte_offset, d.file limit :limit;

-- recalls_pick --
-- SKIP LOCKED: two mounts with the two copies of one file must never wait for each other; whoever has the lock, reads.
select r.file from recall r
where r.file = any(cast(:files as bigint[])) and r.state = 'queued'
  and exists (select from demand d where d.file = r.file and d.volume = :volume and d.created_at <= capstan_now())
order by r.file for update skip locked;

-- recalls_claim --
-- The compare-and-set on the locked recalls, which removes their demand everywhere else. Position order.
with taken as (
    update recall r set state = 'claimed', volume = :volume, epoch = :epoch
    from demand d
    where r.file = any(cast(:files as bigint[])) and r.state = 'queued' and d.file = r.file and d.volume = :volume
    returning r.file, r.bytes, r.owner, r.grp, r.activity, r.priority, r.cohort, r.created_at, r.attempts, d.copy
), removed as (
    delete from demand d using taken t where d.file = t.file returning d.volume, d.file
), told as (
    insert into queue_delta (kind, key, owner, grp, activity, priority, cohort, files, bytes, urgent, asked)
    select 'recall', m.volume, t.owner, t.grp, t.activity, t.priority, t.cohort, -count(*), -sum(t.bytes), 0,
           -sum(whole_seconds(t.created_at))
    from removed m join taken t on t.file = m.file group by 2, 3, 4, 5, 6, 7
)
select t.file as file_id, f.size, f.adler32, f.stored_path as path, t.attempts, c.id as copy_id, c.volume, c.generation,
       v.library, c.tape_file, c.first_block, c.byte_offset, c.length
from taken t join copy c on c.id = t.copy join file f on f.id = t.file join volume v on v.vid = c.volume
order by c.first_block, c.byte_offset, t.file;

-- recalls_fail --
-- Only what this mount has; the rows are locked already. The failure is remembered with the time to try again.
update recall set state = 'queued', volume = null, epoch = null, attempts = attempts + 1, last_error = :why,
       not_before = capstan_now() + make_interval(secs => :backoff_seconds * power(2, least(attempts, 10)))
where file = any(cast(:files as bigint[])) and epoch = :epoch and state = 'claimed'
returning file, attempts, abandoned;

-- recalls_of_epoch --
-- Locked first: the demand that comes back is written by a later statement.
select file, abandoned from recall where epoch = :epoch order by file for update;

-- recalls_release --
-- Back in the queue with their age and attempts: the mount's end is not theirs to answer for.
update recall set state = 'queued', volume = null, epoch = null
where file = any(cast(:files as bigint[])) and state = 'claimed';

-- recalls_of_volume --
-- Everything queued that has demand on this volume, locked in the order of ids before that demand is taken away.
select r.file from recall r
where r.state = 'queued' and r.file in (select d.file from demand d where d.volume = :volume limit :limit)
order by r.file for update of r;

-- recalls_only_on --
-- Those that will have no copy to wait for without this volume, as far as can be told before anything is locked.
select d.file from demand d where d.volume = :volume
  and not exists (select from demand o where o.file = d.file and o.volume <> :volume) limit 100000;

-- demand_remove_of_volume --
-- The copies on this volume are gone; what is left of a recall's demand decides whether it can still be served.
with removed as (
    delete from demand d where d.volume = :volume and d.file = any(cast(:files as bigint[])) returning d.file
), told as (
    insert into queue_delta (kind, key, owner, grp, activity, priority, cohort, files, bytes, urgent, asked)
    select 'recall', :volume, r.owner, r.grp, r.activity, r.priority, r.cohort, -count(*), -sum(r.bytes), 0,
           -sum(whole_seconds(r.created_at))
    from removed m join recall r on r.file = m.file group by 3, 4, 5, 6, 7
)
select file from removed;

-- recalls_stranded --
-- No copy is left to wait for.
select r.file from recall r where r.file = any(cast(:files as bigint[])) and r.state = 'queued'
  and not exists (select from demand d where d.file = r.file);

-- recalls_ripe_for_volume --
-- A volume has come back into use: recalls that wait for another copy may be served by it too.
select r.file from copy c join volume v on v.vid = c.volume and v.generation = c.generation
join recall r on r.file = c.file
where c.volume = :volume and r.state = 'queued' order by r.file for update of r;

-- archives_enqueue --
-- A row per missing copy that the disk can still give. Pools in the class's order, one library each, none that holds a
-- good copy or waits for one already; libraries that are up come first. The unique key makes a repeat harmless.
-- The files are held: one that is being removed is waited for and then found gone, or else finds this archive to remove.
-- What is to lie together has one key: the hint of the put, or the directory.
with wanted as (
    select f.id as file, f.size, f.owner, f.grp, s.copies, s.pools,
           case when f.collocation <> '' then 'hint:' || f.collocation
                else 'dir:' || coalesce((select n.parent from node n where n.id = f.node), 0) end as collocation
    from file f join storage_class s on s.name = f.storage_class
    where f.id = any(cast(:files as bigint[])) and f.state = 'live'
      and exists (select from replica r where r.file = f.id and r.state = 'on_disk')
    order by f.id for share of f
), taken as (
    select c.file, c.copy_number, c.library from good_copy c join wanted w on w.file = c.file
    union
    select a.file, a.copy_number, p.library from archive a join pool p on p.name = a.pool
    join wanted w on w.file = a.file
), missing as (
    select w.*, n.number, row_number() over (partition by w.file order by n.number) as place
    from wanted w cross join lateral generate_series(1, w.copies) as n (number)
    where not exists (select from taken t where t.file = w.file and t.copy_number = n.number)
), one_a_library as (
    select distinct on (w.file, l.name) w.file, p.name as pool, l.state, choice.preference
    from wanted w cross join lateral unnest(w.pools) with ordinality as choice (pool, preference)
    join pool p on p.name = choice.pool join library l on l.name = p.library
    where not exists (select from taken t where t.file = w.file and t.library = l.name)
    order by w.file, l.name, choice.preference
), offered as (
    select file, pool, row_number() over (partition by file order by (state <> 'up'), preference) as place
    from one_a_library
), added as (
    insert into archive (file, copy_number, pool, bytes, owner, grp, urgent, collocation)
    select m.file, m.number, o.pool, m.size, m.owner, m.grp, :urgent, m.collocation
    from missing m join offered o on o.file = m.file and o.place = m.place
    order by m.file, m.number
    on conflict (file, copy_number) do nothing
    returning id, pool, owner, grp, bytes, urgent
), told as (
    insert into queue_delta (kind, key, owner, grp, activity, priority, files, bytes, urgent)
    select 'archive', pool, owner, grp, '', 0, count(*), sum(bytes), count(*) filter (where urgent)
    from added group by 2, 3, 4
)
select count(*) from added;

-- archives_enqueue_rewrites --
-- A row per copy that counts on this volume and whose bytes the disk has, into the volume's own pool. The library has a
-- copy already, of course: this one is to take its place. Files are held as by `archives_enqueue`.
with wanted as (
    select f.id as file, f.size, f.owner, f.grp,
           case when f.collocation <> '' then 'hint:' || f.collocation
                else 'dir:' || coalesce((select n.parent from node n where n.id = f.node), 0) end as collocation
    from file f where f.id = any(cast(:files as bigint[])) and f.state = 'live'
      and exists (select from replica r where r.file = f.id and r.state = 'on_disk')
    order by f.id for share of f
), added as (
    insert into archive (file, copy_number, pool, bytes, owner, grp, collocation)
    select distinct w.file, c.copy_number, v.pool, w.size, w.owner, w.grp, w.collocation
    from wanted w join good_copy c on c.file = w.file and c.volume = :volume
    join volume v on v.vid = c.volume and v.pool is not null
    order by 1, 2
    on conflict (file, copy_number) do nothing
    returning pool, owner, grp, bytes
), told as (
    insert into queue_delta (kind, key, owner, grp, activity, priority, files, bytes, urgent)
    select 'archive', pool, owner, grp, '', 0, count(*), sum(bytes), 0 from added group by 2, 3, 4
)
select count(*) from added;

-- archives_make_urgent --
-- Somebody waits. Only queued rows are counted, so only they tell; a claimed one keeps the mark should it come back.
with marked as (
    update archive set urgent = true where file = any(cast(:files as bigint[])) and not urgent
    returning pool, owner, grp, state
), told as (
    insert into queue_delta (kind, key, owner, grp, activity, priority, files, bytes, urgent)
    select 'archive', pool, owner, grp, '', 0, 0, 0, count(*) from marked where state = 'queued' group by 2, 3, 4
)
select count(*) from marked;

-- archives_urgent --
-- Of what a mount has, that for which somebody waits.
select id from archive where epoch = :epoch and urgent and state = 'claimed' limit :limit;

-- archives_claim --
-- SKIP LOCKED: several mounts of one pool share its backlog without waiting. What somebody waits for comes first, by the
-- index. The oldest of the rest say which groups come next, in which order; they are as many as may be claimed, so their
-- groups hold enough. Of each group all is taken, by its index, until the claim is full: the loop over the groups stops
-- there, because both its inputs come in the order that is asked for. A group that the last claim could not take whole
-- goes on. What no live cache server can give now is passed
-- over, and so is a group that has begun on another volume which is filled now, unless it has waited too long for that.
-- The running sum keeps a claim within what the mount may take at once, but the first is always taken.
with live as materialized (
    select name, url from cache_server
    where state = 'up' and heartbeat_at > capstan_now() - make_interval(secs => :heartbeat_seconds_max)
), open as materialized (
    select vid from volume where vid = :volume and state in ('active', 'blank')
), urgent as (
    select 0::bigint as place, a.id, a.bytes, a.created_at, a.collocation as key
    from archive a
    where exists (select from open) and a.pool = :pool and a.state = 'queued' and a.urgent
      and a.not_before <= capstan_now()
      and exists (select from replica r join live l on l.name = r.cache_server
                  where r.file = a.file and r.state = 'on_disk')
    order by a.created_at, a.id limit :files_max
    for update of a skip locked
), seeds as materialized (
    select a.collocation, a.created_at, a.id
    from archive a
    where exists (select from open) and a.pool = :pool and a.state = 'queued' and not a.urgent
      and a.not_before <= capstan_now()
      and exists (select from replica r join live l on l.name = r.cache_server
                  where r.file = a.file and r.state = 'on_disk')
    order by a.created_at, a.id limit :files_max
), filled_elsewhere as materialized (
    select h.key from mount m join volume v on v.vid = m.volume and v.state = 'active'
    join collocation h on h.pool = :pool and h.volume = m.volume
    where m.pool = :pool and m.purpose = 'archive' and m.volume <> :volume and m.state in ('planned', 'loading', 'running')
      and h.key in (select collocation from seeds)
), groups as (
    select collocation as key, row_number() over (order by collocation <> :going_on, min(created_at), min(id)) as place
    from (select * from seeds union all
          (select a.collocation, a.created_at, a.id from archive a
           where exists (select from open) and a.pool = :pool and a.collocation = :going_on and a.state = 'queued'
             and not a.urgent and a.not_before <= capstan_now() order by a.created_at limit 1)) as oldest
    group by collocation
    having collocation not in (select key from filled_elsewhere)
        or min(created_at) <= capstan_now() - make_interval(secs => :home_seconds)
), grouped as (
    select g.place, a.id, a.bytes, a.created_at, g.key
    from (select * from groups order by place offset 0) g
    cross join lateral (
        select a.id, a.bytes, a.created_at from archive a
        where a.pool = :pool and a.collocation = g.key and a.state = 'queued' and not a.urgent
          and a.not_before <= capstan_now()
          and exists (select from replica r join live l on l.name = r.cache_server
                      where r.file = a.file and r.state = 'on_disk')
        order by a.created_at, a.id limit :files_max
        for update of a skip locked) a
    order by g.place, a.created_at, a.id limit :files_max
), fitting as (
    select *, sum(bytes) over claiming as so_far, row_number() over claiming as number
    from (select * from urgent union all select * from grouped) as picked
    window claiming as (order by place, created_at, id)
), taken as (
    update archive a set state = 'claimed', epoch = :epoch
    from fitting p where a.id = p.id and p.number <= :files_max and (p.so_far <= :bytes_max or p.number = 1)
    returning a.id, a.file, a.copy_number, a.attempts, a.bytes, a.owner, a.grp, a.urgent, a.created_at, p.number, p.key
), told as (
    insert into queue_delta (kind, key, owner, grp, activity, priority, files, bytes, urgent)
    select 'archive', :pool, owner, grp, '', 0, -count(*), -sum(bytes), -(count(*) filter (where urgent))
    from taken group by 3, 4
)
select t.id as archive_id, t.copy_number, t.attempts, t.key, t.urgent, r.id as replica_id, r.cache_server,
       cast(extract(epoch from capstan_now() - t.created_at) as double precision) as age_seconds,
       r.url as cache_url, f.id, f.stored_path, f.size, f.adler32, f.mtime_ns, f.mode, f.owner, f.grp, f.storage_class,
       f.digests
from taken t join file f on f.id = t.file
cross join lateral (
    select r.id, r.cache_server, l.url from replica r join live l on l.name = r.cache_server
    where r.file = t.file and r.state = 'on_disk' order by r.id limit 1) r
order by t.number;

-- written_rewrites --
-- What a mount is about to record of files whose copy of the same number lies on a volume that is being repacked.
select distinct a.file from archive a
join copy c on c.file = a.file and c.copy_number = a.copy_number
join volume v on v.vid = c.volume and v.generation = c.generation and v.state = 'repacking'
where a.id = any(cast(:archives as bigint[])) and a.epoch = :epoch and a.state = 'claimed' order by a.file;

-- files_lock --
-- FOR UPDATE: a new recall refers to its file, so none begins until this transaction has ended.
select id from file where id = any(cast(:files as bigint[])) order by id for update;

-- written_hold --
-- The lock that every new copy takes on its file, taken before the archive goes and in the order of ids: a removal of
-- the file, which takes the file first too, is waited for and not met in a deadlock.
select f.id from file f where f.id in (
    select a.file from archive a where a.id = any(cast(:archives as bigint[])) and a.epoch = :epoch and a.state = 'claimed')
order by f.id for key share;

-- archives_written --
-- One step from "claimed by this mount" to a copy. A row that is gone (its file was removed meanwhile) leaves bytes on
-- the tape that nothing refers to. Repeating it after an unknown outcome finds no row and adds nothing. Where a group lies
-- is written once, and then rarely: no row is hot.
with told as (
    select * from unnest(cast(:archives as bigint[]), cast(:tape_files as integer[]), cast(:first_blocks as bigint[]),
                         cast(:byte_offsets as bigint[]), cast(:lengths as bigint[]))
        as t (archive, tape_file, first_block, byte_offset, length)
), done as (
    delete from archive a using told t where a.id = t.archive and a.epoch = :epoch and a.state = 'claimed'
    returning a.file, a.copy_number, a.pool, a.owner, a.grp, a.collocation, t.tape_file, t.first_block, t.byte_offset,
              t.length
), served as (
    insert into mount_served as s (epoch, owner, grp, files_written, bytes_written)
    select :epoch, owner, grp, count(*), sum(length) from done group by owner, grp order by grp, owner
    on conflict (epoch, owner, grp) do update
    set files_written = s.files_written + excluded.files_written,
        bytes_written = s.bytes_written + excluded.bytes_written
), homes as (
    insert into collocation as h (pool, key, volume)
    select distinct pool, collocation, cast(:volume as text) from done where collocation <> '' order by 1, 2
    on conflict (pool, key) do update set volume = excluded.volume, at = capstan_now()
    where h.volume <> excluded.volume or h.at < capstan_now() - make_interval(secs => :home_age_seconds)
), added as (
    insert into copy (file, copy_number, volume, generation, tape_file, first_block, byte_offset, length, epoch)
    select d.file, d.copy_number, v.vid, v.generation, d.tape_file, d.first_block, d.byte_offset, d.length, :epoch
    from done d cross join volume v where v.vid = :volume
    returning file
)
select file from added;

-- copies_replaced --
-- Copies on volumes under repacking whose file has one of the same number on this volume now. The files and their recalls
-- are locked, so demand for the old copy cannot come after this; what there is goes with its deltas, before the cascade
-- would take it without them. A recall that a mount has claimed there reads on.
with old as (
    select c.id, c.file from copy c
    join volume v on v.vid = c.volume and v.generation = c.generation and v.state = 'repacking'
    where c.file = any(cast(:files as bigint[]))
      and exists (select from good_copy n where n.file = c.file and n.copy_number = c.copy_number and n.volume = :volume
                  and n.volume_state <> 'repacking')
), removed as (
    delete from demand d using old where d.copy = old.id returning d.volume, d.file
), told as (
    insert into queue_delta (kind, key, owner, grp, activity, priority, cohort, files, bytes, urgent, asked)
    select 'recall', m.volume, r.owner, r.grp, r.activity, r.priority, r.cohort, -count(*), -sum(r.bytes), 0,
           -sum(whole_seconds(r.created_at))
    from removed m join recall r on r.file = m.file group by 2, 3, 4, 5, 6, 7
), gone as (
    delete from copy c using old where c.id = old.id returning c.file, c.volume
), left_behind as (
    -- A backup that was made before this believes them there: a reclaim asks for a newer one.
    update volume v set left_at = capstan_now() where v.vid in (select volume from gone)
)
select distinct file from gone;

-- homes_forget --
-- By age, bounded; what grows again gets a new home.
delete from collocation where (pool, key) in (
    select pool, key from collocation where at < capstan_now() - make_interval(secs => :seconds) order by at limit :limit);

-- volume_end --
-- Never backwards. An index is told of together with the end behind it.
update volume set tape_files = :tape_files, end_block = :end_block, written_bytes = :written_bytes,
       end_verified = end_verified or :verified,
       written_at = case when end_block < :end_block then capstan_now() else written_at end,
       index_block = coalesce(cast(:index_block as bigint), index_block),
       indexed_tape_files = case when cast(:index_block as bigint) is null then indexed_tape_files else :tape_files end
where vid = :volume and end_block <= :end_block and tape_files <= :tape_files
returning generation, state;

-- dead_extents --
-- What is known already stays as it was first said.
insert into dead_extent (volume, generation, tape_file, first_block, blocks, why)
select :volume, :generation, t.* from unnest(cast(:tape_files as integer[]), cast(:first_blocks as bigint[]),
    cast(:blocks as bigint[]), cast(:whys as text[])) as t (tape_file, first_block, blocks, why)
on conflict do nothing;

-- archives_fail --
-- Tried too often: HELD, for an operator's retry. Otherwise back in the queue after a pause, which counts again.
with failed as (
    update archive set epoch = null, attempts = attempts + 1, last_error = :why,
           state = case when attempts + 1 >= :attempts_max then 'held' else 'queued' end,
           not_before = capstan_now() + make_interval(secs => :backoff_seconds * power(2, least(attempts, 10)))
    where id = any(cast(:archives as bigint[])) and epoch = :epoch and state = 'claimed'
    returning id, pool, owner, grp, bytes, urgent, state
), told as (
    insert into queue_delta (kind, key, owner, grp, activity, priority, files, bytes, urgent)
    select 'archive', pool, owner, grp, '', 0, count(*), sum(bytes), count(*) filter (where urgent)
    from failed where state = 'queued' group by 2, 3, 4
)
select id, state from failed;

-- archives_release --
-- Back in the queue with age and attempts unchanged: the mount's end, or a full volume, is not theirs to answer for.
with released as (
    update archive set state = 'queued', epoch = null
    where epoch = :epoch and state = 'claimed'
      and (cast(:archives as bigint[]) is null or id = any(cast(:archives as bigint[])))
    returning pool, owner, grp, bytes, urgent
), told as (
    insert into queue_delta (kind, key, owner, grp, activity, priority, files, bytes, urgent)
    select 'archive', pool, owner, grp, '', 0, count(*), sum(bytes), count(*) filter (where urgent)
    from released group by 2, 3, 4
)
select count(*) from released;

-- archives_remove --
-- The file is gone; a mount that has one of these finds its row missing and records no copy.
with gone as (
    delete from archive where file = any(cast(:files as bigint[])) returning pool, owner, grp, bytes, urgent, state
), told as (
    insert into queue_delta (kind, key, owner, grp, activity, priority, files, bytes, urgent)
    select 'archive', pool, owner, grp, '', 0, -count(*), -sum(bytes), -(count(*) filter (where urgent))
    from gone where state = 'queued' group by 2, 3, 4
)
select count(*) from gone;

-- archives_drop_rewrites --
-- Nobody has taken them, and the copy that each was to replace counts as before. What a mount has taken may finish.
with chosen as (
    select a.id from archive a join good_copy c on c.file = a.file and c.copy_number = a.copy_number and c.volume = :volume
    where a.state <> 'claimed' order by a.id for update of a
), gone as (
    delete from archive a using chosen x where a.id = x.id and a.state <> 'claimed'
    returning a.pool, a.owner, a.grp, a.bytes, a.urgent, a.state
), told as (
    insert into queue_delta (kind, key, owner, grp, activity, priority, files, bytes, urgent)
    select 'archive', pool, owner, grp, '', 0, -count(*), -sum(bytes), -(count(*) filter (where urgent))
    from gone where state = 'queued' group by 2, 3, 4
)
select count(*) from gone;

-- archives_retry --
-- An operator's way out: held rows start anew, waiting ones are tried at once.
with freed as (
    update archive set state = 'queued', attempts = 0, not_before = capstan_now()
    where state = 'held' returning pool, owner, grp, bytes, urgent
), told as (
    insert into queue_delta (kind, key, owner, grp, activity, priority, files, bytes, urgent)
    select 'archive', pool, owner, grp, '', 0, count(*), sum(bytes), count(*) filter (where urgent)
    from freed group by 2, 3, 4
), hurried as (
    update archive set attempts = 0, not_before = capstan_now()
    where state = 'queued' and not_before > capstan_now() returning id
)
select (select count(*) from freed) + (select count(*) from hurried);

-- demand_retry --
-- Backed-off demand is wanted again from now on. Age is not a counter: no delta.
update demand set created_at = capstan_now() where created_at > capstan_now();

-- archives_fail_over --
-- Archives of a pool whose library has been away too long move to the next pool of their class whose library is up and
-- takes no part in the file yet. They do not move back. Bounded, and SKIP LOCKED: the next round takes the rest.
with stuck as (
    select a.id, a.file, a.pool, a.owner, a.grp, a.bytes, a.urgent from archive a
    join pool p on p.name = a.pool join library l on l.name = p.library
    where a.state = 'queued' and l.state <> 'up'
      and l.since <= capstan_now() - make_interval(secs => :failover_after_seconds)
      and exists (
          select from file f join storage_class s on s.name = f.storage_class
          join pool q on q.name = any(s.pools) join library up on up.name = q.library and up.state = 'up'
          where f.id = a.file
            and not exists (select from good_copy c where c.file = f.id and c.library = up.name)
            and not exists (select from archive b join pool bp on bp.name = b.pool
                            where b.file = f.id and bp.library = up.name))
    order by a.id limit :limit for update of a skip locked
), moved as (
    update archive a set pool = (
        select q.name from file f join storage_class s on s.name = f.storage_class
        cross join lateral unnest(s.pools) with ordinality as choice (pool, preference)
        join pool q on q.name = choice.pool join library up on up.name = q.library and up.state = 'up'
        where f.id = stuck.file
          and not exists (select from good_copy c where c.file = f.id and c.library = up.name)
          and not exists (select from archive b join pool bp on bp.name = b.pool
                          where b.file = f.id and bp.library = up.name)
        order by choice.preference limit 1)
    from stuck where a.id = stuck.id
    returning stuck.pool as old_pool, a.pool as new_pool, a.owner, a.grp, a.bytes, a.urgent
), told as (
    insert into queue_delta (kind, key, owner, grp, activity, priority, files, bytes, urgent)
    select 'archive', old_pool, owner, grp, '', 0, -count(*), -sum(bytes), -(count(*) filter (where urgent))
    from moved group by 2, 3, 4
    union all
    select 'archive', new_pool, owner, grp, '', 0, count(*), sum(bytes), count(*) filter (where urgent)
    from moved group by 2, 3, 4
)
select count(*) from moved;

-- archives_repair --
-- Files that were safe until their copies on this volume stopped counting; keyset by file, bounded.
select distinct c.file from copy c join file f on f.id = c.file and f.state = 'live'
where c.volume = :volume and c.file > :after
  and exists (select from replica r where r.file = c.file and r.state = 'on_disk')
order by c.file limit :limit;

-- became_safe --
-- Derived in one place, safe_files; asked by a statement of its own, which sees the copies that were just added.
select f.id, f.stored_path from safe_files(cast(:files as bigint[])) as safe (id)
join file f on f.id = safe.id and f.state = 'live' order by f.id;

-- lacking_copies --
-- The other side of `became_safe`.
select id from file where id = any(cast(:files as bigint[])) and state = 'live'
  and id not in (select * from safe_files(cast(:files as bigint[]))) order by id;

-- orphaned_epochs --
-- Claims whose mount is over: none should exist, because a mount's end gives them back in its own transaction.
select epoch from (
    select epoch from recall where epoch is not null union select epoch from archive where epoch is not null
) as claims where not exists (select from mount m where m.epoch = claims.epoch) order by epoch limit 100;

-- deltas_fold --
-- One folder of a library at a time (the advisory lock is taken before). Sums meet their counter in the order of keys.
-- What is of no library any more is anybody's.
with gone as (
    delete from queue_delta where id in (
        select d.id from queue_delta d
        left join volume v on d.kind = 'recall' and v.vid = d.key left join pool p on d.kind = 'archive' and p.name = d.key
        where coalesce(v.library, p.library, :library) = :library order by d.id limit :limit)
    returning kind, key, owner, grp, activity, priority, cohort, files, bytes, urgent, asked
), sums as materialized (
    select kind, key, owner, grp, activity, priority, cohort, count(*) as deltas, sum(files)::bigint as files,
           sum(bytes)::bigint as bytes, sum(urgent)::bigint as urgent, sum(asked)::bigint as asked,
           coalesce(sum(files) filter (where files > 0), 0)::bigint as came_files,
           coalesce(sum(bytes) filter (where files > 0), 0)::bigint as came_bytes,
           coalesce(sum(asked) filter (where files > 0), 0)::bigint as came_asked
    from gone group by 1, 2, 3, 4, 5, 6, 7 order by 1, 2, 3, 4, 5, 6, 7
), folded as (
    insert into queue_counter as c (kind, key, owner, grp, activity, priority, cohort, files, bytes, urgent, asked)
    select kind, key, owner, grp, activity, priority, cohort, files, bytes, urgent, asked from sums
    on conflict (kind, key, owner, grp, activity, priority, cohort) do update
    set files = c.files + excluded.files, bytes = c.bytes + excluded.bytes, urgent = c.urgent + excluded.urgent,
        asked = c.asked + excluded.asked
)
select * from sums;

-- counters_clear_empty --
-- Keys come and go with owners and volumes; an empty one says nothing. They have an index of their own.
delete from queue_counter where files = 0 and bytes = 0 and urgent = 0;

-- backlog --
-- Truth is folded + deltas, read in one snapshot. The oldest that may be served now comes from an index; nothing is
-- counted. An archive whose bytes no live cache server has is passed over, as it would be by the claim: a mount for it
-- would write nothing, again and again. Without any live server nothing is looked for at all.
with counts as (
    select kind, key, sum(files)::bigint as files, sum(bytes)::bigint as bytes, sum(urgent)::bigint as urgent
    from (select kind, key, files, bytes, urgent from queue_counter
          union all select kind, key, files, bytes, urgent from queue_delta) as both_kinds
    group by kind, key having sum(files) > 0
), live as (
    select name from cache_server
    where state = 'up' and heartbeat_at > capstan_now() - make_interval(secs => :heartbeat_seconds_max)
)
select c.*, cast(extract(epoch from capstan_now() - o.oldest) as double precision) as oldest_seconds
from counts c left join lateral (
    select case when c.kind = 'recall'
        then (select d.created_at from demand d where d.volume = c.key order by d.created_at limit 1)
        else (select min(found.created_at) from (values (true), (false)) as kind (urgent) cross join lateral (
                  select a.created_at from archive a where a.pool = c.key and a.state = 'queued'
                    and a.urgent = kind.urgent and a.not_before <= capstan_now()
                    and exists (select from live)
                    and exists (select from replica r join live on live.name = r.cache_server
                                where r.file = a.file and r.state = 'on_disk')
                  order by a.created_at limit 1) as found) end as oldest) as o on true
order by c.kind, c.key;

-- counters --
-- What is folded of one library, in the order of keys and in pages: a planner that begins reads all of them.
select c.kind, c.key, c.owner, c.grp, c.activity, c.priority, c.cohort, 0 as deltas, c.files, c.bytes, c.urgent, c.asked,
       c.files as came_files, c.bytes as came_bytes, c.asked as came_asked
from queue_counter c
left join volume v on c.kind = 'recall' and v.vid = c.key left join pool p on c.kind = 'archive' and p.name = c.key
where coalesce(v.library, p.library) = :library
  and (c.kind, c.key, c.owner, c.grp, c.activity, c.priority, c.cohort)
    > (:kind, :key, :owner, :grp, :activity, cast(:priority as smallint), cast(:cohort as bigint))
order by 1, 2, 3, 4, 5, 6, 7 limit :limit;

-- drift --
-- The reconciler's question, and the tests': what the counters say against what there is. No row means none.
with said as (
    select kind, key, owner, grp, activity, priority, cohort, sum(files) as files, sum(bytes) as bytes,
           sum(urgent) as urgent, sum(asked) as asked
    from (select kind, key, owner, grp, activity, priority, cohort, files, bytes, urgent, asked from queue_counter
          union all
          select kind, key, owner, grp, activity, priority, cohort, files, bytes, urgent, asked from queue_delta) as told
    group by 1, 2, 3, 4, 5, 6, 7
), there as (
    select 'recall' as kind, d.volume as key, r.owner, r.grp, r.activity, r.priority, r.cohort, count(*) as files,
           sum(r.bytes) as bytes, 0 as urgent, sum(whole_seconds(r.created_at)) as asked
    from demand d join recall r on r.file = d.file group by 2, 3, 4, 5, 6, 7
    union all
    select 'archive', pool, owner, grp, '', 0, 0, count(*), sum(bytes), count(*) filter (where urgent), 0
    from archive where state = 'queued' group by 2, 3, 4
)
select kind, key, owner, grp, activity, priority, cohort,
       coalesce(s.files, 0) - coalesce(t.files, 0) as files, coalesce(s.bytes, 0) - coalesce(t.bytes, 0) as bytes,
       coalesce(s.urgent, 0) - coalesce(t.urgent, 0) as urgent, coalesce(s.asked, 0) - coalesce(t.asked, 0) as asked
from said s full join there t using (kind, key, owner, grp, activity, priority, cohort)
where (coalesce(s.files, 0), coalesce(s.bytes, 0), coalesce(s.urgent, 0), coalesce(s.asked, 0))
   <> (coalesce(t.files, 0), coalesce(t.bytes, 0), coalesce(t.urgent, 0), coalesce(t.asked, 0));
