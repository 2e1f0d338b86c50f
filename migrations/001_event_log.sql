-- The event log: DESIGN sections 4 and 5.
--
-- With roles (see migrations.go) this runs as durhack_deployer_owner, so that
-- everything belongs to a role that does not log in; without, as the
-- connecting role, and the triggers stand guard alone.

-- The one-row counter that gives out positions. Its row lock is what orders
-- commits: whoever holds it appends, and the next one sees what was committed.
create table public.log_head (
    only_row boolean primary key default true,
    position bigint  not null,
    last_id  text    not null,
    constraint log_head_has_one_row      check (only_row),
    constraint log_head_position_counted check (position >= 0),
    constraint log_head_last_id_is_ulid  check (last_id ~ '^[0-7][0-9A-HJKMNP-TV-Z]{25}$')
);
insert into public.log_head (position, last_id) values (0, '00000000000000000000000000');

-- data is json, not jsonb: what was appended is read back byte for byte.
create table public.events (
    position    bigint      not null,
    id          text        not null,
    instance    text        not null,
    delivery_id text        not null,
    type        text        not null,
    deployment  text,
    attempt     integer     not null,
    actor       text        not null,
    recorded_at timestamptz not null,
    data        json        not null,
    constraint events_pkey primary key (position),
    -- delivery_id leads so that the one index also serves "all of a delivery".
    constraint events_identity unique nulls not distinct (delivery_id, instance, type, deployment, attempt),
    constraint events_position_from_one   check (position >= 1),
    constraint events_id_is_a_ulid        check (length(id) = 26),
    constraint events_instance_length     check (length(instance) between 1 and 255),
    constraint events_delivery_id_length  check (length(delivery_id) between 1 and 255),
    constraint events_type_length         check (length(type) between 1 and 64),
    constraint events_deployment_length   check (length(deployment) between 1 and 255),
    constraint events_attempt_not_negative check (attempt >= 0),
    constraint events_actor_length        check (length(actor) <= 255)
);

-- The fence: the newest event of a deployment's runs. The position is negated so
-- that only this index has the order which the lookup asks for: offered plain
-- positions, the planner may walk the primary key backwards through the whole
-- log for a deployment that has not run for long. The condition is that of the
-- lookup, word for word.
create index events_runs on public.events (instance, deployment, (-position))
    where type in ('started', 'deployed', 'failed', 'interrupted');

-- Bodies as bytes, apart from the log, so that one can be redacted while the
-- log stays as it is.
create table public.payloads (
    digest       text        primary key,
    salt         bytea       not null,
    content_type text        not null,
    body         bytea       not null,
    stored_at    timestamptz not null default clock_timestamp(),
    constraint payloads_digest_is_sha256 check (digest ~ '^[0-9a-f]{64}$')
);

-- Second line of defence, for every role and for sessions in replica mode.
create function public.event_log_refuse() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception '% of public.% is refused: the event log is append-only', tg_op, tg_table_name
        using errcode = 'insufficient_privilege';
end
$$;

create function public.event_log_forward_only() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if new.position <= old.position or new.last_id collate "C" <= old.last_id collate "C" then
        raise exception 'the head of the event log only moves forward (from % to %)', old.position, new.position
            using errcode = 'insufficient_privilege';
    end if;
    return new;
end
$$;

create trigger events_append_only before update or delete or truncate on public.events
    for each statement execute function public.event_log_refuse();
alter table public.events enable always trigger events_append_only;

create trigger log_head_stays before delete or truncate on public.log_head
    for each statement execute function public.event_log_refuse();
alter table public.log_head enable always trigger log_head_stays;
create trigger log_head_forward_only before update on public.log_head
    for each row execute function public.event_log_forward_only();
alter table public.log_head enable always trigger log_head_forward_only;

create trigger payloads_unchanged before update or truncate on public.payloads
    for each statement execute function public.event_log_refuse();
alter table public.payloads enable always trigger payloads_unchanged;

-- Takes the head lock until the transaction ends and says where the log stands
-- and what time it is: the database's clock is the one that all writers share.
create function public.event_log_lock(out head_position bigint, out head_last_id text, out at timestamptz)
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    -- A committed event is on disk, whatever the database's default is; and a
    -- writer that vanished or was stopped gives the lock back.
    perform set_config('synchronous_commit', 'on', true) where current_setting('synchronous_commit') = 'off';
    perform set_config('idle_in_transaction_session_timeout', '30s', true);
    select h.position, h.last_id into strict head_position, head_last_id from public.log_head h for update;
    at := clock_timestamp();
end
$$;

-- The events that already have one of these identities. Planned for the
-- identity index always: a plan that was cached while the table was small must
-- not scan it when it is large. security invoker: it reads what its caller may.
create function public.event_log_existing(delivery_ids text[], instances text[], types text[], deployments text[], attempts integer[])
    returns table (e_position bigint, e_id text, e_instance text, e_delivery_id text, e_type text, e_deployment text,
                   e_attempt integer, e_actor text, e_recorded_at timestamptz, e_data json)
    language plpgsql stable set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
begin
    return query
        select e.position, e.id, e.instance, e.delivery_id, e.type, e.deployment, e.attempt, e.actor, e.recorded_at, e.data
        from unnest(delivery_ids, instances, types, deployments, attempts)
                 as k (delivery_id, instance, type, deployment, attempt)
        join public.events e
          on e.delivery_id = k.delivery_id and e.instance = k.instance and e.type = k.type
         and e.deployment is not distinct from k.deployment and e.attempt = k.attempt;
end
$$;

-- The only way in. It does not trust its caller with the order: positions
-- follow the head, IDs follow the last ID, and the time lies in this transaction.
create function public.event_log_append(
    first bigint, at timestamptz, ids text[], instances text[], delivery_ids text[], types text[],
    deployments text[], attempts integer[], actors text[], datas text[])
    returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    head public.log_head;
    previous text;
    current text;
    n integer := cardinality(ids);
begin
    if n is null or n = 0 then
        raise exception 'nothing to append' using errcode = 'invalid_parameter_value';
    end if;
    select * into strict head from public.log_head for update;
    if first is distinct from head.position + 1 then
        raise exception 'append at position %, but the log ends at %', first, head.position using errcode = 'serialization_failure';
    end if;
    if (at between transaction_timestamp() and clock_timestamp()) is not true then
        raise exception 'time % is not that of the append', at using errcode = 'serialization_failure';
    end if;
    previous := head.last_id;
    foreach current in array ids loop
        if (current collate "C" > previous collate "C") is not true then
            raise exception 'event ID % does not follow %', current, previous using errcode = 'invalid_parameter_value';
        end if;
        previous := current;
    end loop;
    insert into public.events (position, id, instance, delivery_id, type, deployment, attempt, actor, recorded_at, data)
        select first + k.n - 1, k.id, k.instance, k.delivery_id, k.type, k.deployment, k.attempt, k.actor, event_log_append.at, k.data::json
        from unnest(ids, instances, delivery_ids, types, deployments, attempts, actors, datas)
                 with ordinality as k (id, instance, delivery_id, type, deployment, attempt, actor, data, n);
    update public.log_head h set position = first + n - 1, last_id = previous;
end
$$;

revoke all on function public.event_log_lock(), public.event_log_append(bigint, timestamptz, text[], text[], text[], text[], text[], integer[], text[], text[]) from public;
{{- if .roles }}

grant usage on schema public to durhack_deployer_app;
grant select on public.schema_version, public.log_head, public.events to durhack_deployer_app;
grant select, insert on public.payloads to durhack_deployer_app;
grant execute on function public.event_log_lock(), public.event_log_append(bigint, timestamptz, text[], text[], text[], text[], text[], integer[], text[], text[]) to durhack_deployer_app;
{{- end }}
