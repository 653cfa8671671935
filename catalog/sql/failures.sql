-- The suspect matrix, and the copies that it has condemned. A row counts until it expires or is cleared; a row with a
-- file speaks of that copy alone, one without of the volume as a whole.

-- record --
-- The library is the drive's; who calls knows no more than the mount.
insert into failure (library, drive, volume, kind, epoch, file, why, expires_at)
values (:library, :drive, :volume, :kind, :epoch, :file, :why, capstan_now() + make_interval(secs => :lifetime_seconds));

-- evidence --
-- Of single files only those count against the drive whose copy was read well elsewhere: else it may be the copy.
select drive, volume, kind, epoch, file is null as whole from failure
where (drive = :drive or volume = :volume) and cleared_at is null and expires_at > capstan_now()
  and (file is null or copy_is_good);

-- suspect_pairs --
-- Of everything that counts: also a single file is better tried in another drive.
select volume, drive, count(*) as failures from failure
where library = :library and cleared_at is null and expires_at > capstan_now()
group by volume, drive order by volume, drive;

-- matrix --
-- What an operator sees: a line for each pair, with the newest reason.
select library, volume, drive, count(*) as failures, count(distinct file) as files,
       array_agg(distinct kind order by kind) as kinds, max(at) as last_at, max(expires_at) as expires_at,
       (array_agg(why order by id desc))[1] as why
from failure
where (cast(:drive as text) is null or drive = :drive) and (cast(:volume as text) is null or volume = :volume)
  and cleared_at is null and expires_at > capstan_now()
group by library, volume, drive order by library, volume, drive;

-- clear --
-- By an operator, or because the verdict was spoken: evidence is used once.
update failure set cleared_at = capstan_now()
where cleared_at is null and (cast(:drive as text) is null or drive = :drive)
  and (cast(:volume as text) is null or volume = :volume);

-- take_back --
-- What was held against the pair as a whole; a mount that only read says nothing of writing.
update failure set cleared_at = capstan_now()
where cleared_at is null and drive = :drive and volume = :volume and file is null and kind = any(cast(:kinds as text[]));

-- clear_files --
-- Of these files on this volume: their copies are condemned, and no drive is to blame for them.
update failure set cleared_at = capstan_now()
where cleared_at is null and volume = :volume and file = any(cast(:files as bigint[]));

-- suspected_files --
-- Few: asked once a mount.
select distinct file from failure
where volume = :volume and file is not null and not copy_is_good and cleared_at is null
  and expires_at > capstan_now();

-- acquit_copies --
-- Read well in one drive after it failed in another: the other drive's failure. In this drive it is forgotten.
update failure set copy_is_good = (drive <> :drive), cleared_at = case when drive = :drive then capstan_now() end
where cleared_at is null and not copy_is_good and volume = :volume and file = any(cast(:files as bigint[]))
returning drive;

-- forget --
-- Long after it counted, in one bounded go: what was once held against whom is in the reasons and the audit.
delete from failure where id in (
    select id from failure
    where coalesce(cleared_at, expires_at) < capstan_now() - make_interval(secs => :keep_seconds) limit :limit);

-- condemned --
-- Failed in two drives; or often enough where there is only one that could be asked; or twice as often in any case, so
-- that there is an end. A drive that is down or silent cannot be asked.
with failed as (
    select file, count(distinct drive) as drives, count(distinct epoch) as mounts, count(*) as times from failure
    where volume = :volume and file = any(cast(:files as bigint[])) and cleared_at is null
      and expires_at > capstan_now() and not copy_is_good
    group by file
), usable as (
    select count(*) as drives from drive d join volume v on v.vid = :volume and v.library = d.library
    where d.state = 'up' and d.heartbeat_at > capstan_now() - make_interval(secs => :drive_seconds_max)
)
select f.file from failed f cross join usable u
where f.drives >= 2 or f.times >= :attempts_max * (case when u.drives > 1 then 2 else 1 end)
order by f.file;

-- break_copies --
-- From here on they count no more: safe, present and demanded are all derived from this. One that was broken before
-- keeps its first reason.
update copy c set broken_at = capstan_now(), broken_why = told.why
from (select * from unnest(cast(:files as bigint[]), cast(:reasons as text[])) as t (file, why)) as told
join volume v on v.vid = :volume
where c.file = told.file and c.volume = v.vid and c.generation = v.generation and c.broken_at is null
returning c.file;

-- mend_copies --
-- An operator, or a verification, has found them good after all.
update copy c set broken_at = null, broken_why = null from volume v
where v.vid = :volume and c.volume = v.vid and c.generation = v.generation and c.broken_at is not null
  and (cast(:files as bigint[]) is null or c.file = any(cast(:files as bigint[])))
returning c.file;

-- demand_of_broken --
-- The recalls are locked already. What is left of a recall's demand decides whether it can still be served.
with removed as (
    delete from demand d using copy c
    where d.copy = c.id and c.broken_at is not null and d.volume = :volume
      and d.file = any(cast(:files as bigint[])) returning d.file
), told as (
    insert into queue_delta (kind, key, owner, grp, activity, priority, cohort, files, bytes, urgent, asked)
    select 'recall', :volume, r.owner, r.grp, r.activity, r.priority, r.cohort, -count(*), -sum(r.bytes), 0,
           -sum(whole_seconds(r.created_at))
    from removed m join recall r on r.file = m.file group by 3, 4, 5, 6, 7
)
select count(*) from removed;

-- recalls_without_demand --
-- No copy is left to wait for.
select r.file from recall r where r.file = any(cast(:files as bigint[])) and r.state = 'queued'
  and not exists (select from demand d where d.file = r.file);

-- hold_files --
-- As `archives_enqueue` holds them, which comes later in the same transaction: against their removal.
select id from file where id = any(cast(:files as bigint[])) order by id for share;

-- worth_repairing --
-- Live files that lack a copy, whose bytes are on no disk and on a tape that can be asked, and that nobody is bringing
-- for this reason already.
select f.id from file f
where f.id = any(cast(:files as bigint[])) and f.state = 'live' and not file_is_safe(f.id)
  and not exists (select from replica r where r.file = f.id and r.state = 'on_disk')
  and exists (select from present_copy c where c.file = f.id)
  and not exists (select from stage_item i join stage_request r on r.id = i.request and r.origin = 'repair'
                  where i.file = f.id and i.state in ('submitted', 'started'))
order by f.id;
