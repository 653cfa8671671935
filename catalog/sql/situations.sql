-- What a planner looks at before each decision, and what it writes. Reads come as one document: one round trip, and one
-- snapshot, so that a mount that ends at this moment is either live or in the history.

-- look --
-- Drives, live mounts, and how those ended that the planner still takes for live. As JSON: hundreds of rows of three kinds
-- are one value, and their order is that of their names. The clock is asked once, and not for each drive.
with moment as materialized (
    select at, at - make_interval(secs => :silence_seconds_max) as silent_since from capstan_now() as clock (at)
)
select json_build_object(
    'now', extract(epoch from moment.at), 'library_state', l.state, 'library_reason', l.reason,
    'drives', coalesce((
        select json_agg(json_build_object('name', d.name, 'up', d.state = 'up', 'attached',
            coalesce(d.heartbeat_at > moment.silent_since, false),
            'model', coalesce(nullif(d.model, ''), d.reported_model)) order by d.name)
        from drive d where d.library = l.name), '[]'),
    'mounts', coalesce((
        select json_agg(json_build_object(
            'epoch', m.epoch, 'drive', m.drive, 'volume', m.volume, 'pool', m.pool, 'purpose', m.purpose, 'group', m.grp,
            'ending', m.stop_wanted is not null or m.state = 'unloading', 'full', v.state in ('full', 'closed'),
            'began_at', extract(epoch from m.created_at), 'idle_since', extract(epoch from m.idle_since)) order by m.drive)
        from mount m join volume v on v.vid = m.volume where m.library = l.name), '[]'),
    'ends', coalesce((
        select json_agg(json_build_object(
            'epoch', h.epoch, 'drive', h.drive, 'volume', h.volume, 'outcome', h.outcome, 'files', h.files,
            'at', extract(epoch from h.ended_at), 'pair_failed', exists(
                select from failure f where f.volume = h.volume and f.epoch = h.epoch and f.drive = h.drive
                  and f.cleared_at is null)) order by h.epoch)
        from mount_history h where h.epoch = any(cast(:epochs as bigint[]))), '[]'))::text
from library l cross join moment where l.name = :library;

-- carry_out --
-- All of one decision, in one round trip and under the lease, whose row is locked against a takeover until the end of the
-- statement. The picture may be a moment old: a mount whose work is gone by now gets no row, nor does one whose drive or
-- volume another planner took, or whose volume has joined another pool since. An index is written on what is full. In the
-- order of drives. An operator's "now" was for the mount that is made; who is to stop already keeps the first reason, which
-- says more.
with held as materialized (
    select number from lease
    where name = :lease and holder = :holder and number = :number and expires_at > capstan_now() for key share
), made as (
    insert into mount (drive, volume, library, pool, purpose, grp, reason_code, reason_arguments)
    select w.drive, w.volume, d.library, coalesce(w.pool, v.pool), w.purpose, w.grp, w.code, cast(w.arguments as jsonb)
    from unnest(cast(:drives as text[]), cast(:volumes as text[]), cast(:pools as text[]), cast(:purposes as text[]),
                cast(:groups as text[]), cast(:codes as text[]), cast(:arguments as text[]))
         as w (drive, volume, pool, purpose, grp, code, arguments)
    join drive d on d.name = w.drive and d.state = 'up' join volume v on v.vid = w.volume and v.library = d.library
    join library l on l.name = d.library and l.state = 'up'
    where exists (select from held) and (w.pool is null or v.pool is null or v.pool = w.pool)
      and ((w.code in ('verify', 'label', 'index')
            and exists (select from maintenance t where t.kind = w.code and t.key = w.volume and t.state in ('queued', 'running'))
            and (w.code <> 'index' or not v.end_verified or v.tape_files > v.indexed_tape_files))
        or (w.purpose = 'archive' and v.state in ('blank', 'active')
            and exists (select from archive a where a.pool = w.pool and a.state = 'queued'))
        or (volume_is_readable(v.state)
            and exists (select from demand m where m.volume = w.volume and m.created_at <= capstan_now())))
    order by w.drive
    on conflict do nothing
    returning epoch, drive, volume, pool, purpose, grp, created_at
), hurried as (
    update volume v set hurried_at = null from made m where v.vid = m.volume and v.hurried_at is not null
), stopped as (
    update mount m set stop_wanted = w.why from unnest(cast(:late as bigint[]), cast(:whys as text[])) as w (epoch, why)
    where m.epoch = w.epoch and m.stop_wanted is null and exists (select from held)
)
select epoch, drive, volume, pool, purpose, grp, cast(extract(epoch from created_at) as double precision) as began_at
from made order by drive;

-- ripe --
-- When the next recall of each volume may be read: the first entry of an index. Without any there is no row.
select w.volume, cast(extract(epoch from first.created_at) as double precision) as at
from unnest(cast(:volumes as text[])) as w (volume) cross join lateral (
    select d.created_at from demand d where d.volume = w.volume order by d.created_at limit 1) as first;

-- pools --
-- The oldest archive of each pool that can be written now, by index. One whose bytes no live cache server has is passed
-- over, as it would be by the claim: a mount for it would write nothing, again and again. Without any live server nothing
-- is looked for at all.
with live as (
    select name from cache_server
    where state = 'up' and heartbeat_at > capstan_now() - make_interval(secs => :heartbeat_seconds_max)
)
select p.name, p.volumes_open_max, cast(extract(epoch from o.oldest) as double precision) as oldest_at
from pool p cross join lateral (
    select min(found.created_at) as oldest from (values (true), (false)) as kind (urgent) cross join lateral (
        select a.created_at from archive a where a.pool = p.name and a.state = 'queued'
          and a.urgent = kind.urgent and a.not_before <= capstan_now()
          and exists (select from live)
          and exists (select from replica r join live on live.name = r.cache_server
                      where r.file = a.file and r.state = 'on_disk')
        order by a.created_at limit 1) as found) as o
where p.name = any(cast(:pools as text[])) order by p.name;

-- volumes --
-- By name where names are given, else those that have changed since, by an index and in pages: no planner reads twenty
-- thousand rows a round.
select v.vid, greatest(v.since, v.medium_since) as changed_at, v.state, v.reason, v.pool, v.capacity_bytes, v.written_bytes,
       coalesce(nullif(v.medium, ''), l.spec ->> 'medium') as medium
from volume v join library l on l.name = v.library
where v.library = :library
  and (cast(:volumes as text[]) is null or v.vid = any(cast(:volumes as text[])))
  and (greatest(v.since, v.medium_since), v.vid) > (cast(:changed_at as timestamptz), cast(:after as text))
order by greatest(v.since, v.medium_since), v.vid limit :limit;

-- gone_with_demand --
-- By the states and an index of demand: not by what waits, which may be millions.
select v.vid from volume v where not volume_is_present(v.state)
  and exists (select from demand d where d.volume = v.vid) order by v.vid;

-- hurried --
-- Few, by an index of their own.
select vid from volume where library = :library and hurried_at is not null order by vid;

-- hurry --
-- What an operator wants now stays so until it is mounted.
update volume set hurried_at = capstan_now() where vid = :volume returning library;
