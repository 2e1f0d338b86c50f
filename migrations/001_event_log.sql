-- The event log, its Merkle tree and the bodies: docs/log-format.md.
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

-- The redactions of a delivery.
create index events_redacted on public.events (delivery_id, instance) where type = 'redacted';

-- The Merkle tree over the log (RFC 6962).
--
-- The row of position p holds the hashes that the leaf of p completes, level by
-- level: its own, and one more for each trailing zero bit of p. Leaf 0 of the
-- tree is position 1. They are those of golang.org/x/mod/sumdb/tlog, 32 bytes each.
create table public.event_hashes (
    position bigint not null,
    hashes   bytea  not null,
    constraint event_hashes_pkey primary key (position),
    constraint event_hashes_position_from_one check (position >= 1),
    -- With k = the number of hashes - 1, the lowest k + 1 bits of position are 1 0...0.
    constraint event_hashes_are_those_completed check (
        octet_length(hashes) >= 32 and octet_length(hashes) % 32 = 0
        and position & ((2::bigint << (octet_length(hashes) / 32 - 1)) - 1) = 1::bigint << (octet_length(hashes) / 32 - 1))
);

-- Bodies as bytes, apart from the log, so that one can be redacted while the
-- log stays as it is.
create table public.payloads (
    digest       text        primary key,
    salt         bytea       not null,
    content_type text        not null,
    body         bytea       not null,
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

-- A body may go, with its salt, once the log says so.
create function public.event_log_only_redacted() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from public.events e where e.type = 'redacted' and strpos(e.data::text, '"' || old.digest || '"') > 0) then
        raise exception 'delete of payload % is refused: no redacted event names it', old.digest using errcode = 'insufficient_privilege';
    end if;
    return old;
end
$$;

create trigger events_append_only before update or delete or truncate on public.events
    for each statement execute function public.event_log_refuse();
alter table public.events enable always trigger events_append_only;

create trigger event_hashes_append_only before update or delete or truncate on public.event_hashes
    for each statement execute function public.event_log_refuse();
alter table public.event_hashes enable always trigger event_hashes_append_only;

create trigger log_head_stays before delete or truncate on public.log_head
    for each statement execute function public.event_log_refuse();
alter table public.log_head enable always trigger log_head_stays;
create trigger log_head_forward_only before update on public.log_head
    for each row execute function public.event_log_forward_only();
alter table public.log_head enable always trigger log_head_forward_only;

create trigger payloads_unchanged before update or truncate on public.payloads
    for each statement execute function public.event_log_refuse();
alter table public.payloads enable always trigger payloads_unchanged;
create trigger payloads_only_redacted before delete on public.payloads
    for each row execute function public.event_log_only_redacted();
alter table public.payloads enable always trigger payloads_only_redacted;

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

-- The only way in for events. It does not trust its caller with the order:
-- positions follow the head, IDs follow the last ID, and the time lies in this
-- transaction. It checks the number of the hashes (a constraint of the table)
-- and not the hashes themselves: `verify` recomputes them, and so does the
-- signer before it vouches for them.
create function public.event_log_append(
    first bigint, at timestamptz, ids text[], instances text[], delivery_ids text[], types text[],
    deployments text[], attempts integer[], actors text[], datas text[], hashes bytea[])
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
    if cardinality(hashes) is distinct from n then
        raise exception '% events with % rows of hashes', n, cardinality(hashes) using errcode = 'invalid_parameter_value';
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
    insert into public.event_hashes (position, hashes)
        select first + k.n - 1, k.h from unnest(hashes) with ordinality as k (h, n);
    update public.log_head h set position = first + n - 1, last_id = previous;
    -- A redacted event without the redaction cannot be had, nor one of another
    -- delivery's bodies.
    if 'redacted' = any (types) then
        delete from public.payloads p
            using public.events r, public.events e
            where r.position between first and first + n - 1 and r.type = 'redacted'
              and e.delivery_id = r.delivery_id and e.instance = r.instance and e.type in ('received', 'redelivered')
              and p.digest = substring(e.data::text from '"payload_digest":"([0-9a-f]{64})"')
              and strpos(r.data::text, '"' || p.digest || '"') > 0;
    end if;
end
$$;

-- The only way in for bodies: it checks what they are filed under.
create function public.event_log_store(digest text, salt bytea, content_type text, body bytea) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if digest is distinct from encode(sha256(salt || body), 'hex') then
        raise exception 'payload % is not what its digest says', digest using errcode = 'invalid_parameter_value';
    end if;
    insert into public.payloads (digest, salt, content_type, body)
        values (event_log_store.digest, event_log_store.salt, event_log_store.content_type, event_log_store.body)
        on conflict on constraint payloads_pkey do nothing;
end
$$;

-- The leaf of an event: netstrings, as eventlog.AppendLeaf writes them. One
-- expression, because a function for each of them costs thirty times as much.
create function public.event_log_leaf(e public.events) returns bytea
    language plpgsql immutable
as $$
declare
    micros text := (extract(epoch from e.recorded_at) * 1000000)::bigint;
begin
    return convert_to('25:durhack-deployer/event/v1,'
        || length(e.position::text) || ':' || e.position::text || ','
        || octet_length(convert_to(e.id, 'UTF8')) || ':' || e.id || ','
        || octet_length(convert_to(e.instance, 'UTF8')) || ':' || e.instance || ','
        || octet_length(convert_to(e.delivery_id, 'UTF8')) || ':' || e.delivery_id || ','
        || octet_length(convert_to(e.type, 'UTF8')) || ':' || e.type || ','
        || octet_length(convert_to(coalesce(e.deployment, ''), 'UTF8')) || ':' || coalesce(e.deployment, '') || ','
        || length(e.attempt::text) || ':' || e.attempt::text || ','
        || octet_length(convert_to(e.actor, 'UTF8')) || ':' || e.actor || ','
        || length(micros) || ':' || micros || ','
        || octet_length(convert_to(e.data::text, 'UTF8')) || ':' || e.data::text || ',',
        'UTF8');
end
$$;

-- Hashes the events that have no hashes yet: those of an import. For the owner
-- alone: it would give a log that was tampered with new hashes.
create function public.event_log_fill_hashes() returns bigint
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    size   bigint := (select coalesce(max(h.position), 0) from public.event_hashes h);
    edge   bytea[] := '{}'; -- the roots of the complete subtrees, the largest first
    filled bigint := 0;
    last   bigint := 0;
    node   bytea;
    stored bytea;
    rest   bigint;
    leaf   record;
begin
    for level in reverse 62..0 loop
        if size & (1::bigint << level) <> 0 then
            last := last + (1::bigint << level);
            select substr(h.hashes, 32 * level + 1, 32) into strict node from public.event_hashes h where h.position = last;
            edge := array_append(edge, node);
        end if;
    end loop;
    for leaf in select e.position, sha256('\x00'::bytea || public.event_log_leaf(e)) as hash
                from public.events e where e.position > size order by e.position loop
        if leaf.position <> size + 1 then
            raise exception 'the event log has no position %', size + 1;
        end if;
        node := leaf.hash;
        stored := node;
        rest := size;
        while rest & 1 = 1 loop
            node := sha256('\x01'::bytea || edge[cardinality(edge)] || node);
            edge := trim_array(edge, 1);
            stored := stored || node;
            rest := rest >> 1;
        end loop;
        edge := array_append(edge, node);
        insert into public.event_hashes (position, hashes) values (leaf.position, stored);
        size := size + 1;
        filled := filled + 1;
    end loop;
    return filled;
end
$$;

revoke all on function public.event_log_lock, public.event_log_append, public.event_log_store, public.event_log_fill_hashes from public;
{{- if .roles }}

grant usage on schema public to durhack_deployer_app;
grant select on public.schema_version, public.log_head, public.events, public.event_hashes, public.payloads to durhack_deployer_app;
grant execute on function public.event_log_lock, public.event_log_append, public.event_log_store to durhack_deployer_app;
{{- end }}
