-- Media: libraries, drives, pools, volumes.

-- lock_library --
-- The state moves under the row's lock, so that two operators' changes are one after the other.
select state, reason from library where name = :name for update;

-- lock_drive --
-- As for a library.
select state, reason from drive where name = :name for update;

-- lock_volume --
-- NO KEY: claims and copies refer to the volume all the time, and its key never changes.
select state, reason, generation, full_at from volume where vid = :name for no key update;

-- move_library --
-- Who and why stand in the row: everything that waits for it shows them.
update library set state = :state, reason = :reason, changed_by = :who, since = capstan_now() where name = :name;

-- move_drive --
-- As for a library.
update drive set state = :state, reason = :reason, changed_by = :who, since = capstan_now() where name = :name;

-- move_volume --
-- A volume that is full is so from the moment it is first said.
update volume set state = :state, reason = :reason, changed_by = :who, since = capstan_now(),
       full_at = case when :state = 'full' then coalesce(full_at, capstan_now()) when :state = 'blank' then null
                      else full_at end
where vid = :name;

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

-- labelled --
-- A label is on the tape: the volume is empty, and its copies of an older generation count no more. Who has taken it out
-- of use meanwhile keeps his word; the label is there all the same, and what is written behind it is of its generation.
update volume set state = case when state = 'blank' then 'active' else state end, generation = :generation,
       reason = case when state = 'blank' then '' else reason end,
       changed_by = case when state = 'blank' then 'capstan' else changed_by end,
       since = case when state = 'blank' then capstan_now() else since end,
       pool = coalesce(pool, cast(:pool as text)), tape_files = 0, end_block = :end_block, written_bytes = 0,
       full_at = null, end_verified = true
where vid = :volume and generation < :generation and tape_files = 0
returning vid;

-- writable --
-- Where the archives of a pool may go: partly filled ones first, the fullest of them; then labelled and blank ones.
select v.vid, v.pool, v.state, v.written_bytes, v.capacity_bytes, p.name as for_pool
from pool p cross join lateral (
    select * from volume v
    where v.library = p.library and (v.pool = p.name or (v.pool is null and v.state = 'blank'))
      and v.state in ('active', 'blank')
      and not exists (select from mount m where m.volume = v.vid)
    order by (v.state = 'blank'), (v.written_bytes = 0), v.written_bytes desc, v.vid limit :limit) v
where p.name = any(cast(:pools as text[]))
order by p.name, (v.state = 'blank'), (v.written_bytes = 0), v.written_bytes desc, v.vid;
