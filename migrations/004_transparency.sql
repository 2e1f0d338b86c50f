-- The Merkle tree over the log (RFC 6962; docs/log-format.md), and redaction.
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

create trigger event_hashes_append_only before update or delete or truncate on public.event_hashes
    for each statement execute function public.event_log_refuse();
alter table public.event_hashes enable always trigger event_hashes_append_only;

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

-- Hashes the events that have no hashes yet: those from before this migration.
-- For the owner alone: it would give a log that was tampered with new hashes.
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
select public.event_log_fill_hashes();

-- Bodies come in through a function, which checks what they are filed under.
-- When a body was stored is told by its event; a second record of it, which no
-- hash covers, could only contradict that.
alter table public.payloads drop column stored_at;

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

-- Redaction: a body may go, with its salt, once the log says so.
create index events_redacted on public.events (delivery_id, instance) where type = 'redacted';

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

create trigger payloads_only_redacted before delete on public.payloads
    for each row execute function public.event_log_only_redacted();
alter table public.payloads enable always trigger payloads_only_redacted;

-- The only way in, now with the hashes. It checks their number (a constraint of
-- the table) and not the hashes themselves: `verify` recomputes them, and so
-- does the signer before it vouches for them.
drop function public.event_log_append(bigint, timestamptz, text[], text[], text[], text[], text[], integer[], text[], text[]);

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

revoke all on function public.event_log_append(bigint, timestamptz, text[], text[], text[], text[], text[], integer[], text[], text[], bytea[]),
    public.event_log_store(text, bytea, text, bytea), public.event_log_fill_hashes() from public;
{{- if .roles }}

grant select on public.event_hashes to durhack_deployer_app;
revoke insert on public.payloads from durhack_deployer_app;
grant execute on function public.event_log_append(bigint, timestamptz, text[], text[], text[], text[], text[], integer[], text[], text[], bytea[]),
    public.event_log_store(text, bytea, text, bytea) to durhack_deployer_app;
{{- end }}
