-- emit --
-- The rows are numbered by the identity column in the order of the arrays; the transaction id is the column's default.
INSERT INTO event (kind, subject, data)
SELECT kind, subject, CAST(data AS jsonb)
FROM unnest(CAST(:kinds AS text[]), CAST(:subjects AS text[]), CAST(:data AS text[]))
     WITH ORDINALITY AS news (kind, subject, data, number)
ORDER BY number

-- present --
-- Everything below the oldest transaction that still runs is final; nothing can appear there any more.
SELECT pg_snapshot_xmin(pg_current_snapshot()) AS horizon, incarnation FROM catalog_identity

-- read_after --
-- The horizon is what makes (transaction, id) an order without gaps: an older transaction that is still open would
-- otherwise commit behind a reader that has gone past it.
SELECT transaction, id, at, kind, subject, data
FROM event
WHERE (transaction, id) > (CAST(:transaction AS xid8), CAST(:id AS bigint))
  AND transaction < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY transaction, id
LIMIT :limit
