-- The durable truth of one data directory. A row is the commit point: no row, no adapter.
-- Times are Unix seconds; shapes, requests, metrics and records are JSON.

CREATE TABLE transitions (
    source TEXT NOT NULL,
    target TEXT NOT NULL,
    PRIMARY KEY (source, target)
) STRICT, WITHOUT ROWID;

CREATE TABLE chains (
    name TEXT PRIMARY KEY,
    base TEXT NOT NULL,
    created_at REAL NOT NULL,
    deleted_at REAL,
    -- The highest number ever given: it outlives the chain's deletion.
    last_number INTEGER NOT NULL DEFAULT 0,
    -- Of the stage that the chain began with; above 1 where the name had a chain before.
    first_number INTEGER NOT NULL DEFAULT 1,
    head INTEGER,
    FOREIGN KEY (name, head) REFERENCES stages (chain, number),
    CHECK (deleted_at IS NULL OR head IS NULL)
) STRICT;

CREATE TABLE revisions (
    id TEXT PRIMARY KEY CHECK (length(id) = 64),
    shape TEXT NOT NULL,
    nbytes INTEGER NOT NULL,
    created_at REAL NOT NULL
) STRICT;

CREATE TABLE stages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    chain TEXT NOT NULL REFERENCES chains (name),
    number INTEGER NOT NULL CHECK (number > 0),
    base TEXT NOT NULL,
    origin TEXT NOT NULL CHECK (origin IN ('trained', 'imported', 'forked')),
    state TEXT NOT NULL CHECK (state IN (
        'validating', 'queued', 'running', 'paused', 'evaluating', 'held',
        'succeeded', 'failed', 'cancelled'
    )),
    request TEXT,
    priority INTEGER NOT NULL DEFAULT 0,
    parent TEXT,
    revision TEXT,
    revision_deleted_at REAL,
    shape TEXT,
    progress TEXT NOT NULL DEFAULT '{}',
    metrics TEXT NOT NULL DEFAULT '{}',
    record TEXT NOT NULL DEFAULT '{}',
    error TEXT,
    created_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    fence INTEGER NOT NULL DEFAULT 0,
    UNIQUE (chain, number),
    CHECK ((origin = 'trained') = (request IS NOT NULL)),
    CHECK (state <> 'succeeded' OR revision IS NOT NULL),
    CHECK (state <> 'failed' OR error IS NOT NULL),
    CHECK (revision_deleted_at IS NULL OR revision IS NOT NULL)
) STRICT;

-- Stages of a chain run one at a time.
CREATE UNIQUE INDEX one_claimed_stage ON stages (chain) WHERE state IN ('running', 'evaluating');
CREATE INDEX stages_of_revision ON stages (revision);

CREATE TRIGGER only_legal_transitions BEFORE UPDATE OF state ON stages
WHEN OLD.state <> NEW.state AND NOT EXISTS (
    SELECT 1 FROM transitions WHERE source = OLD.state AND target = NEW.state
)
BEGIN
    SELECT RAISE(ABORT, 'illegal transition');
END;

CREATE TRIGGER stages_stay BEFORE DELETE ON stages
BEGIN
    SELECT RAISE(ABORT, 'the lineage record stays');
END;

CREATE TABLE labels (
    chain TEXT NOT NULL,
    label TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (chain, label),
    FOREIGN KEY (chain, number) REFERENCES stages (chain, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoints (
    stage TEXT NOT NULL REFERENCES stages (id),
    step INTEGER NOT NULL,
    file TEXT NOT NULL,
    PRIMARY KEY (stage, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stage TEXT NOT NULL REFERENCES stages (id),
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL
) STRICT;
CREATE INDEX events_of_stage ON events (stage, id);

CREATE TABLE datasets (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE CHECK (length(id) = 64),
    nbytes INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    created_at REAL NOT NULL,
    name TEXT
) STRICT;

CREATE TABLE idempotency (
    route TEXT NOT NULL,
    key TEXT NOT NULL,
    digest TEXT NOT NULL,
    stage TEXT NOT NULL REFERENCES stages (id),
    created_at REAL NOT NULL,
    PRIMARY KEY (route, key)
) STRICT, WITHOUT ROWID;
