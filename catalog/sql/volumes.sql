-- Media: libraries, drives, pools, volumes.

-- lock_library --
-- The state moves under the row's lock, so that two operators' changes are one after the other.
select state, reason from library where name = :name for update;

-- lock_drive --
-- As for a library.
select state, reason from drive where name = :name for update;

-- lock_volume --
-- NO KEY: claims and copies refer to the volume all the time, and its key never changes.
select vid, state, reason, generation, full_at, closed_at,
       tape_files = 0 and (generation = 0 or end_block = 0) as empty,
       exists (select from maintenance m where m.kind = 'repack' and m.key = volume.vid
               and m.state in ('queued', 'running')) as repacked
from volume where vid = :name for no key update;

-- move_library --
-- Who and why stand in the row: everything that waits for it shows them.
update library set state = :state, reason = :reason, changed_by = :who, since = capstan_now() where name = :name;

-- move_drive --
-- As for a library.
update drive set state = :state, reason = :reason, changed_by = :who, since = capstan_now() where name = :name;

-- move_volume --
-- A volume that is full or closed is so from the moment it is first said, until it is written on again.
update volume set state = :state, reason = :reason, changed_by = :who, since = capstan_now(),
       full_at = case when :state = 'full' then coalesce(full_at, capstan_now())
                      when :state in ('blank', 'active') then null else full_at end,
       closed_at = case when :state = 'closed' then coalesce(closed_at, capstan_now())
                        when :state in ('blank', 'active') then null else closed_at end
where vid = :name;

-- mounted_in --
-- Asked under the lock of the volume's row.
select drive from mount where volume = :vid;

-- unsafe_without --
-- Live files that are safe now, and would not be without their copy on this volume; of them those whose last it is.
with here as (
    select c.file, c.copy_number from good_copy c join file f on f.id = c.file and f.state = 'live' where c.volume = :vid
), left_over as (
    select h.file, f.storage_class, (select count(distinct o.copy_number) from good_copy o
            where o.file = h.file and o.volume <> :vid) as others,
           (select count(distinct o.copy_number) from good_copy o where o.file = h.file) as good
    from (select distinct file from here) h join file f on f.id = h.file
)
select count(*) filter (where good >= s.copies and others < s.copies) as unsafe, count(*) filter (where others = 0) as last
from left_over l join storage_class s on s.name = l.storage_class;

-- hold_drive --
-- Of several tape servers with the same drive one holds it, until its heartbeat has been silent for too long. Taking it
-- begins the heartbeat, so that two that come at once do not take it from each other.
update drive set tapeserver = :tapeserver, heartbeat_at = capstan_now()
where name = :drive and (tapeserver is null or heartbeat_at is null
       or heartbeat_at < capstan_now() - make_interval(secs => :seconds_max))
returning name;

-- attach_drives --
-- The heartbeat of the drives that a tape server holds: which of them it can use now.
update drive set heartbeat_at = capstan_now()
where name = any(cast(:drives as text[])) and tapeserver = :tapeserver;

-- report_models --
-- Said again and again, written only when it is new.
update drive d set reported_model = t.model
from unnest(cast(:drives as text[]), cast(:models as text[])) as t (drive, model)
where d.name = t.drive and d.library = :library and d.reported_model <> t.model
returning d.name;

-- labelled --
-- A label is on the tape: the volume is empty, and its copies of an older generation count no more. Who has taken it out
-- of use meanwhile keeps his word; the label is there all the same, and what is written behind it is of its generation.
update volume set state = case when state = 'blank' then 'active' else state end, generation = :generation,
       reason = case when state = 'blank' then '' else reason end,
       changed_by = case when state = 'blank' then 'capstan' else changed_by end,
       since = case when state = 'blank' then capstan_now() else since end,
       pool = coalesce(pool, cast(:pool as text)), tape_files = 0, end_block = :end_block, written_bytes = 0,
       full_at = null, closed_at = null, end_verified = true, index_block = 0, indexed_tape_files = 0,
       labelled_at = capstan_now(), written_at = null, read_at = null, verified_at = null
where vid = :volume and generation < :generation and tape_files = 0
returning vid;

-- writable --
-- Where the archives of a pool may go: partly filled ones first, the fullest of them; then labelled and blank ones. Those
-- in drives too: who asks decides at the moment at which one comes out, and would otherwise begin another.
select v.vid, v.pool, v.state, v.written_bytes, v.capacity_bytes, p.name as for_pool
from pool p cross join lateral (
    select * from volume v
    where v.library = p.library and (v.pool = p.name or (v.pool is null and v.state = 'blank'))
      and v.state in ('active', 'blank')
      and not exists (select from maintenance l where l.kind = 'label' and l.key = v.vid
                      and l.state in ('queued', 'running'))
    order by (v.state = 'blank'), (v.written_bytes = 0), v.written_bytes desc, v.vid limit :limit) v
where p.name = any(cast(:pools as text[]))
order by p.name, (v.state = 'blank'), (v.written_bytes = 0), v.written_bytes desc, v.vid;
