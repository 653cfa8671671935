-- insert_token --
-- The expiry is counted by the database's clock, which is also the one that checks it.
INSERT INTO token (hash, label, owner, groups, grants, recorded, expires_at)
VALUES (:hash, :label, :owner, CAST(:groups AS text[]), CAST(:grants AS jsonb), :recorded,
        capstan_now() + make_interval(secs => CAST(:lifetime_seconds AS double precision)))
RETURNING id

-- token_by_hash --
-- Why a token is refused is told apart here, where the clock is.
SELECT id, owner, groups, grants, recorded, revoked_at IS NOT NULL AS revoked,
       coalesce(expires_at <= capstan_now(), false) AS expired
FROM token WHERE hash = :hash

-- valid_tokens --
-- Without the grants beyond a few: a job's token holds one for each of its inputs.
SELECT id AS token_id, owner, groups, label, expires_at, created_at,
       (SELECT coalesce(jsonb_agg(g), '[]') FROM (SELECT g FROM jsonb_array_elements(grants) AS g LIMIT 10) AS few) AS grants
FROM token WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > capstan_now())
  AND (CAST(:owner AS text) IS NULL OR owner = CAST(:owner AS text))
ORDER BY id DESC LIMIT :limit

-- revoke_token --
-- The first revocation counts: repeating it must not move the time.
UPDATE token SET revoked_at = coalesce(revoked_at, capstan_now()) WHERE id = :id RETURNING owner

-- valid_keys --
-- Newest first: that one signs; the older one is still believed, so that a rotation breaks no URL.
SELECT id, secret, created_at > capstan_now() - make_interval(secs => :age_seconds_max) AS young
FROM signing_key WHERE retires_at > capstan_now() ORDER BY id DESC LIMIT 2

-- lock_keys --
-- Two servers that find no young key at once must not both make one: three would be valid, and one forgotten.
SELECT pg_advisory_xact_lock(hashtext('capstan.signing_key'))

-- insert_key --
-- Valid for twice the age at which the next one is made, so two are valid at any time after the first rotation.
INSERT INTO signing_key (secret, retires_at)
VALUES (:secret, capstan_now() + make_interval(secs => :lifetime_seconds))
