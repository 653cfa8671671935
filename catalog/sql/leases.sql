-- Leases are granted, renewed and expired by the database's clock alone. `number` grows with every new holding, so that
-- work under an older one can be told from the present one.

-- acquire --
-- One statement decides the race. The same holder may take its own lease again at once (its former process is over, or
-- will find its number stale); anybody else waits until it has expired. What is being written under it (`guard`) is
-- waited for: only who has the lock that excludes it may change the row. The change itself is one of no key, as a renewal
-- is, and would not wait. Who stands by asks again and again and writes nothing: a renewal would wait for his commit.
with free as materialized (
    select from lease where name = :name and (expires_at <= capstan_now() or holder = :holder) for update
), locked as materialized (select count(*) > 0 as mine from free)
insert into lease as l (name, holder, number, expires_at)
select :name, :holder, 1, capstan_now() + make_interval(secs => :seconds) from locked
where mine or not exists (select from lease where name = :name)
on conflict (name) do update
set holder = excluded.holder, number = l.number + 1, expires_at = excluded.expires_at
where (select mine from locked)
returning number;

-- renew --
-- Only the very holding that is asked for, also when it has run out but nobody has taken it since.
update lease set expires_at = capstan_now() + make_interval(secs => :seconds)
where name = :name and holder = :holder and number = :number
returning number;

-- release --
-- The row stays, for its number; only its time is over.
update lease set expires_at = capstan_now() where name = :name and holder = :holder and number = :number;

-- guard --
-- Locked against a takeover until the transaction ends: what is decided under a lease is written under it. Not against a
-- renewal, nor does it wait for one, whose commit waits for the disk while a drive waits for a decision.
select number from lease
where name = :name and holder = :holder and number = :number and expires_at > capstan_now() for key share;
