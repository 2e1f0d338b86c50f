-- The read models: DESIGN sections 3 and 5. Everything here is derived from
-- the event log and can be made again from it.
--
-- What does not apply is null. Keys sort by bytes (collate "C"), so the order
-- does not depend on the machine; the delivery leads them because it tells rows
-- apart at its first bytes, which makes an index of many rows cheap to build.
create schema projections;

-- One row a projection, advanced compare-and-set in the transaction of its rows.
create table projections.checkpoints (
    name       text        primary key,
    version    integer     not null,
    position   bigint      not null,
    updated_at timestamptz not null default clock_timestamp(),
    -- Why the projection stopped at this position, or empty.
    error      text        not null default '',
    constraint checkpoints_position_counted check (position >= 0)
);

create table projections.deployments (
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
    pending             integer     not null,
    deployed            integer     not null,
    failed              integer     not null,
    voided              integer     not null,
    constraint deployments_status_known check (status in ('never', 'pending', 'running', 'live', 'failed'))
);
alter table projections.deployments add constraint deployments_pkey primary key (instance, slug);

create table projections.deliveries (
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
    constraint deliveries_state_known check (state in ('pending', 'voided', 'finished', 'unreceived'))
);
alter table projections.deliveries add constraint deliveries_pkey primary key (delivery_id, instance);

create table projections.attempts (
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
    continued_by      integer,
    constraint attempts_outcome_known check (outcome in ('waiting', 'running', 'deployed', 'failed', 'voided', 'interrupted'))
);
alter table projections.attempts add constraint attempts_pkey primary key (delivery_id, instance, deployment, attempt);

-- A rebuild fills fresh tables and puts them in the place of the old ones, all
-- in one transaction. Only their owner may do that, hence security definer.
-- Nothing but these names can be touched through the three functions.
create function projections.make_fresh() returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    create table projections.fresh_deployments (like projections.deployments including defaults including constraints);
    create table projections.fresh_deliveries  (like projections.deliveries  including defaults including constraints);
    create table projections.fresh_attempts    (like projections.attempts    including defaults including constraints);
    {{- if .roles }}
    grant select, insert, update, delete on projections.fresh_deployments, projections.fresh_deliveries, projections.fresh_attempts
        to durhack_deployer_app;
    {{- end }}
end
$$;

-- Apart from making the tables: one index over many rows costs less than many
-- rows put into an index.
create function projections.index_fresh() returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    alter table projections.fresh_deployments add constraint fresh_deployments_pkey primary key (instance, slug);
    alter table projections.fresh_deliveries  add constraint fresh_deliveries_pkey  primary key (delivery_id, instance);
    alter table projections.fresh_attempts    add constraint fresh_attempts_pkey    primary key (delivery_id, instance, deployment, attempt);
end
$$;

create function projections.swap_fresh() returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    drop table projections.deployments, projections.deliveries, projections.attempts;
    alter table projections.fresh_deployments rename to deployments;
    alter table projections.fresh_deliveries  rename to deliveries;
    alter table projections.fresh_attempts    rename to attempts;
    alter table projections.deployments rename constraint fresh_deployments_pkey to deployments_pkey;
    alter table projections.deliveries  rename constraint fresh_deliveries_pkey  to deliveries_pkey;
    alter table projections.attempts    rename constraint fresh_attempts_pkey    to attempts_pkey;
end
$$;

revoke all on function projections.make_fresh(), projections.index_fresh(), projections.swap_fresh() from public;
{{- if .roles }}

grant usage on schema projections to durhack_deployer_app;
grant select, insert, update, delete on all tables in schema projections to durhack_deployer_app;
grant execute on function projections.make_fresh(), projections.index_fresh(), projections.swap_fresh() to durhack_deployer_app;
{{- end }}
