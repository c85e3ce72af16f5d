BEGIN TRANSACTION;
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
INSERT INTO "chains" VALUES('support','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb',1800000000.0,NULL,3,1,1);
INSERT INTO "chains" VALUES('other','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb',1800000000.0,NULL,1,1,NULL);
CREATE TABLE checkpoints (
    stage TEXT NOT NULL REFERENCES stages (id),
    step INTEGER NOT NULL,
    file TEXT NOT NULL,
    PRIMARY KEY (stage, step)
) STRICT, WITHOUT ROWID;
INSERT INTO "checkpoints" VALUES('stage-257379eef7e15b5a7480db2a',2,'step-2.safetensors');
CREATE TABLE datasets (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE CHECK (length(id) = 64),
    nbytes INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    created_at REAL NOT NULL,
    name TEXT
) STRICT;
INSERT INTO "datasets" VALUES(1,'7c24616314d4c7ddcc755cd2cb42baf4e49ac41b1492fa02c30adc34e1cb2e5d',14,1,1800000000.0,NULL);
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stage TEXT NOT NULL REFERENCES stages (id),
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL
) STRICT;
INSERT INTO "events" VALUES(1,'stage-ba9e21ed93eb79fc2fcfc5d3',1800000000.0,'state','{"state":"queued"}');
INSERT INTO "events" VALUES(2,'stage-ba9e21ed93eb79fc2fcfc5d3',1800000000.0,'state','{"state":"running"}');
INSERT INTO "events" VALUES(3,'stage-ba9e21ed93eb79fc2fcfc5d3',1800000000.0,'state','{"state":"evaluating"}');
INSERT INTO "events" VALUES(4,'stage-ba9e21ed93eb79fc2fcfc5d3',1800000000.0,'state','{"state":"succeeded"}');
INSERT INTO "events" VALUES(5,'stage-6278c67b7a1c8aeba570e942',1800000000.0,'state','{"state":"queued"}');
INSERT INTO "events" VALUES(6,'stage-6278c67b7a1c8aeba570e942',1800000000.0,'state','{"state":"running"}');
INSERT INTO "events" VALUES(7,'stage-6278c67b7a1c8aeba570e942',1800000000.0,'state','{"state":"failed","error":{"code":"non_finite","message":"The loss is NaN."}}');
INSERT INTO "events" VALUES(8,'stage-257379eef7e15b5a7480db2a',1800000000.0,'state','{"state":"queued"}');
INSERT INTO "events" VALUES(9,'stage-257379eef7e15b5a7480db2a',1800000000.0,'state','{"state":"running"}');
INSERT INTO "events" VALUES(10,'stage-257379eef7e15b5a7480db2a',1800000000.0,'state','{"state":"paused"}');
INSERT INTO "events" VALUES(11,'stage-7571cd640a2f45a4be45d94d',1800000000.0,'state','{"state":"queued"}');
INSERT INTO "events" VALUES(12,'stage-7571cd640a2f45a4be45d94d',1800000000.0,'state','{"state":"running"}');
CREATE TABLE idempotency (
    route TEXT NOT NULL,
    key TEXT NOT NULL,
    digest TEXT NOT NULL,
    stage TEXT NOT NULL REFERENCES stages (id),
    created_at REAL NOT NULL,
    PRIMARY KEY (route, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE labels (
    chain TEXT NOT NULL,
    label TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (chain, label),
    FOREIGN KEY (chain, number) REFERENCES stages (chain, number)
) STRICT, WITHOUT ROWID;
INSERT INTO "labels" VALUES('support','stable',1);
CREATE TABLE revisions (
    id TEXT PRIMARY KEY CHECK (length(id) = 64),
    shape TEXT NOT NULL,
    nbytes INTEGER NOT NULL,
    created_at REAL NOT NULL
) STRICT;
INSERT INTO "revisions" VALUES('1aab2f78bcdb02ce22270017a3149000f8a82054b8e8d086343ccf5de0f2aa93','{"rank":1,"scale":2.0,"num_layers":1,"keys":["mlp.up_proj"],"dropout":0.0}',445,1800000000.0);
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
INSERT INTO "stages" VALUES(1,'stage-ba9e21ed93eb79fc2fcfc5d3','support',1,'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','trained','succeeded','{"chain":"support","dataset":"7c24616314d4c7ddcc755cd2cb42baf4e49ac41b1492fa02c30adc34e1cb2e5d","settings":{"iters":1,"epochs":null,"batch_size":8,"learning_rate":0.0002,"schedule":"linear","warmup_steps":null,"weight_decay":0.01,"max_grad_norm":1.0,"max_seq_length":2048,"micro_batch_tokens":512,"validation_split":0.0,"eval_every":null,"checkpoint_every":50,"sample_every":null,"seed":0,"strategy":"continue"},"validation":null,"parent":null,"lora":null,"samples":[],"priority":0}',0,NULL,'1aab2f78bcdb02ce22270017a3149000f8a82054b8e8d086343ccf5de0f2aa93',NULL,'{"rank":1,"scale":2.0,"num_layers":1,"keys":["mlp.up_proj"],"dropout":0.0}','{}','{"loss":1.5}','{}',NULL,1800000000.0,1800000000.0,1800000000.0,1);
INSERT INTO "stages" VALUES(2,'stage-6278c67b7a1c8aeba570e942','support',2,'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','trained','failed','{"chain":"support","dataset":"7c24616314d4c7ddcc755cd2cb42baf4e49ac41b1492fa02c30adc34e1cb2e5d","settings":{"iters":1,"epochs":null,"batch_size":8,"learning_rate":0.0002,"schedule":"linear","warmup_steps":null,"weight_decay":0.01,"max_grad_norm":1.0,"max_seq_length":2048,"micro_batch_tokens":512,"validation_split":0.0,"eval_every":null,"checkpoint_every":50,"sample_every":null,"seed":0,"strategy":"continue"},"validation":null,"parent":null,"lora":null,"samples":[],"priority":0}',0,'1aab2f78bcdb02ce22270017a3149000f8a82054b8e8d086343ccf5de0f2aa93',NULL,NULL,NULL,'{}','{}','{}','{"code":"non_finite","message":"The loss is NaN."}',1800000000.0,1800000000.0,1800000000.0,1);
INSERT INTO "stages" VALUES(3,'stage-257379eef7e15b5a7480db2a','support',3,'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','trained','paused','{"chain":"support","dataset":"7c24616314d4c7ddcc755cd2cb42baf4e49ac41b1492fa02c30adc34e1cb2e5d","settings":{"iters":1,"epochs":null,"batch_size":8,"learning_rate":0.0002,"schedule":"linear","warmup_steps":null,"weight_decay":0.01,"max_grad_norm":1.0,"max_seq_length":2048,"micro_batch_tokens":512,"validation_split":0.0,"eval_every":null,"checkpoint_every":50,"sample_every":null,"seed":0,"strategy":"continue"},"validation":null,"parent":null,"lora":null,"samples":[],"priority":0}',0,'1aab2f78bcdb02ce22270017a3149000f8a82054b8e8d086343ccf5de0f2aa93',NULL,NULL,NULL,'{}','{}','{}',NULL,1800000000.0,1800000000.0,NULL,1);
INSERT INTO "stages" VALUES(4,'stage-7571cd640a2f45a4be45d94d','other',1,'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','trained','running','{"chain":"other","dataset":"7c24616314d4c7ddcc755cd2cb42baf4e49ac41b1492fa02c30adc34e1cb2e5d","settings":{"iters":1,"epochs":null,"batch_size":8,"learning_rate":0.0002,"schedule":"linear","warmup_steps":null,"weight_decay":0.01,"max_grad_norm":1.0,"max_seq_length":2048,"micro_batch_tokens":512,"validation_split":0.0,"eval_every":null,"checkpoint_every":50,"sample_every":null,"seed":0,"strategy":"continue"},"validation":null,"parent":null,"lora":null,"samples":[],"priority":0}',0,NULL,NULL,NULL,NULL,'{}','{}','{}',NULL,1800000000.0,1800000000.0,NULL,1);
CREATE TABLE transitions (
    source TEXT NOT NULL,
    target TEXT NOT NULL,
    PRIMARY KEY (source, target)
) STRICT, WITHOUT ROWID;
INSERT INTO "transitions" VALUES('evaluating','cancelled');
INSERT INTO "transitions" VALUES('evaluating','failed');
INSERT INTO "transitions" VALUES('evaluating','held');
INSERT INTO "transitions" VALUES('evaluating','queued');
INSERT INTO "transitions" VALUES('evaluating','succeeded');
INSERT INTO "transitions" VALUES('held','cancelled');
INSERT INTO "transitions" VALUES('held','succeeded');
INSERT INTO "transitions" VALUES('paused','cancelled');
INSERT INTO "transitions" VALUES('paused','queued');
INSERT INTO "transitions" VALUES('queued','cancelled');
INSERT INTO "transitions" VALUES('queued','failed');
INSERT INTO "transitions" VALUES('queued','paused');
INSERT INTO "transitions" VALUES('queued','running');
INSERT INTO "transitions" VALUES('running','cancelled');
INSERT INTO "transitions" VALUES('running','evaluating');
INSERT INTO "transitions" VALUES('running','failed');
INSERT INTO "transitions" VALUES('running','paused');
INSERT INTO "transitions" VALUES('running','queued');
INSERT INTO "transitions" VALUES('validating','cancelled');
INSERT INTO "transitions" VALUES('validating','failed');
INSERT INTO "transitions" VALUES('validating','queued');
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
CREATE INDEX events_of_stage ON events (stage, id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('datasets',4);
INSERT INTO "sqlite_sequence" VALUES('stages',4);
INSERT INTO "sqlite_sequence" VALUES('events',12);
COMMIT;
PRAGMA user_version = 1;
