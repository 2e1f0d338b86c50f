-- Read models in schemas of their own, one for each version of the fold
-- (docs/adr/0011-projections.md): projections_v1, projections_v2, ... What is in
-- them belongs to the binary that has that version, and is made by it, so that a
-- new version needs no migration and an older binary can be gone back to.
--
-- The tables of 002 are not kept: they are derived, and are built anew by the
-- next start.
drop function projections.make_fresh(), projections.index_fresh(), projections.swap_fresh();
drop table projections.deployments, projections.deliveries, projections.attempts;

-- One row a projection and version. It says that they are built in the transaction
-- that fills the version's tables for the first time; before that a row has only the
-- reason why that could not be.
delete from projections.checkpoints;
alter table projections.checkpoints
    drop constraint checkpoints_pkey,
    add constraint checkpoints_pkey primary key (name, version),
    add constraint checkpoints_version_counted check (version >= 1),
    add column built boolean not null;

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

revoke all on function projections.make_schema(integer), projections.drop_schema(integer) from public;
{{- if .roles }}

grant execute on function projections.make_schema(integer), projections.drop_schema(integer) to durhack_deployer_app;
{{- end }}
