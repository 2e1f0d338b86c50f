-- The read models of this version of the fold, as a rebuild fills them. SCHEMA
-- stands for the schema of the version.
--
-- What does not apply is null. Keys sort by bytes (collate "C"), so the order
-- does not depend on the machine; the delivery leads them because it tells rows
-- apart at its first bytes, which makes an index of many rows cheap to build.
create table SCHEMA.fresh_deployments (
    instance            text collate "C" not null,
    slug                text collate "C" not null,
    status              text        not null,
    live_commit         text,
    live_delivery_id    text,
    live_attempt        integer,
    live_since          timestamptz,
    live_actor          text,
    live_position       bigint,
    running_commit      text,
    running_delivery_id text,
    running_attempt     integer,
    running_since       timestamptz,
    running_actor       text,
    running_position    bigint,
    last_type           text,
    last_commit         text,
    last_delivery_id    text,
    last_attempt        integer,
    last_since          timestamptz,
    last_actor          text,
    last_position       bigint,
    last_end            text,
    failed_step         text,
    failed_exit_code    integer,
    failed_signal       text,
    failed_error        text,
    canceled_by         text,
    canceled_reason     text,
    pending             integer     not null,
    deployed            integer     not null,
    failed              integer     not null,
    voided              integer     not null,
    frozen              jsonb,
    pinned              jsonb,
    constraint fresh_deployments_pkey primary key (instance, slug),
    constraint deployments_status_known check (status in ('never', 'pending', 'running', 'live', 'failed'))
);

create table SCHEMA.fresh_deliveries (
    instance          text collate "C" not null,
    delivery_id       text collate "C" not null,
    state             text        not null,
    event             text,
    ref               text,
    repository        text,
    commit            text,
    actor             text,
    source            text,
    received_at       timestamptz,
    received_position bigint,
    voided_position   bigint,
    reason            text,
    detail            text,
    attempts          integer     not null,
    open              integer     not null,
    redeliveries      integer     not null,
    replays           integer     not null,
    last_position     bigint      not null,
    last_at           timestamptz,
    constraint fresh_deliveries_pkey primary key (delivery_id, instance),
    constraint deliveries_state_known check (state in ('pending', 'voided', 'finished', 'unreceived'))
);

create table SCHEMA.fresh_attempts (
    instance          text collate "C" not null,
    delivery_id       text collate "C" not null,
    deployment        text collate "C" not null,
    attempt           integer     not null,
    outcome           text        not null,
    cause             text,
    assigned_position bigint,
    assigned_at       timestamptz,
    actor             text,
    branch            text,
    commit            text,
    previous_commit   text,
    started_position  bigint,
    started_at        timestamptz,
    host              text,
    ended_position    bigint,
    ended_at          timestamptz,
    duration_ms       bigint,
    step              text,
    exit_code         integer,
    signal            text,
    error             text,
    reason            text,
    detail            text,
    superseded_by     text,
    next              text,
    canceled_by       text,
    canceled_reason   text,
    continued_by      integer,
    constraint fresh_attempts_pkey primary key (delivery_id, instance, deployment, attempt),
    constraint attempts_outcome_known check (outcome in ('waiting', 'running', 'deployed', 'failed', 'voided', 'interrupted'))
);

-- What a start asks for: few of very many.
create index fresh_deliveries_open on SCHEMA.fresh_deliveries (instance) where open > 0;

-- What pages and history ask for: the newest attempts of a deployment.
create index fresh_attempts_newest on SCHEMA.fresh_attempts (instance, deployment, assigned_position desc nulls last, attempt desc);
