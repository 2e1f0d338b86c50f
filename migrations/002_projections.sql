-- The read models, which are derived from the event log and can be made again
-- from it, are in schemas of their own, one for each version of the fold
-- (docs/adr/0011-projections.md): projections_v1, projections_v2, ... What is in
-- them belongs to the binary that has that version, and is made by it, so that a
-- new version needs no migration and an older binary can be gone back to.
create schema projections;

-- One row a projection and version, advanced compare-and-set in the transaction
-- of its rows. It says that they are built in the transaction that fills the
-- version's tables for the first time; before that a row has only the reason why
-- that could not be.
create table projections.checkpoints (
    name       text        not null,
    version    integer     not null,
    position   bigint      not null,
    updated_at timestamptz not null default clock_timestamp(),
    -- Why the projection stopped at this position, or empty.
    error      text        not null default '',
    built      boolean     not null,
    constraint checkpoints_pkey primary key (name, version),
    constraint checkpoints_version_counted  check (version >= 1),
    constraint checkpoints_position_counted check (position >= 0)
);

-- The application may make and drop what is in these schemas, but no schema:
-- that would take the right to make any in this database.
create function projections.make_schema(version integer) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if (version >= 1) is not true then
        raise exception 'read models have a version from 1, not %', version using errcode = 'invalid_parameter_value';
    end if;
    execute format('create schema %I', 'projections_v' || version);
    {{- if .roles }}
    execute format('grant usage, create on schema %I to durhack_deployer_app', 'projections_v' || version);
    {{- end }}
end
$$;

create function projections.drop_schema(version integer) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if (version >= 1) is not true then
        raise exception 'read models have a version from 1, not %', version using errcode = 'invalid_parameter_value';
    end if;
    delete from projections.checkpoints c where c.version = drop_schema.version;
    execute format('drop schema if exists %I cascade', 'projections_v' || version);
end
$$;

revoke all on function projections.make_schema, projections.drop_schema from public;
{{- if .roles }}

grant usage on schema projections to durhack_deployer_app;
grant select, insert, update, delete on projections.checkpoints to durhack_deployer_app;
grant execute on function projections.make_schema, projections.drop_schema to durhack_deployer_app;
{{- end }}
