-- The only way in for events. It does not trust its caller with anything that others
-- have to build on: positions follow the head, IDs follow the last ID and are of the
-- time of the append, that time is of the last minute and not before the last event's,
-- data can be read by everybody, and the hashes are those of the events and of the tree
-- below. It computes nothing that the caller could give it to compare: the lock of the
-- head is held while it runs.
create or replace function public.event_log_append(
    first bigint, at timestamptz, ids text[], instances text[], delivery_ids text[], types text[],
    deployments text[], attempts integer[], actors text[], datas text[], hashes bytea[])
    returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
    -- How far the time of an ID may be from that of its event, in milliseconds: a
    -- random part that is full carries over into the time.
    near constant bigint := 1000;
    micros text := (extract(epoch from at) * 1000000)::bigint;
    id_ms bigint;
    at_ms bigint := floor(extract(epoch from at) * 1000);
    previous text;
    current text;
    deepest constant integer := 256;
    longest constant integer := 16 * 1024 * 1024;
    head public.log_head;
    last_at timestamptz;
    n integer := cardinality(ids);
    wrong_data bigint;
    wrong_leaf bigint;
    wrong_node bigint;
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
    select e.recorded_at into last_at from public.events e where e.position = head.position;
    -- The time was read before the lock was taken, by a program that knows the clock.
    if (at between greatest(last_at, clock_timestamp() - interval '1 minute') and greatest(last_at, clock_timestamp())) is not true then
        raise exception 'time % is not that of the append', at using errcode = 'serialization_failure';
    end if;
    previous := head.last_id;
    foreach current in array ids loop
        if (current collate "C" > previous collate "C") is not true then
            raise exception 'event ID % does not follow %', current, previous using errcode = 'invalid_parameter_value';
        end if;
        previous := current;
    end loop;
    -- The constraints of the tables are checked first: those of the identity and of the
    -- number of hashes.
    insert into public.events (position, id, instance, delivery_id, type, deployment, attempt, actor, recorded_at, data)
        select first + k.n - 1, k.id, k.instance, k.delivery_id, k.type, k.deployment, k.attempt, k.actor, event_log_append.at, k.data::json
        from unnest(ids, instances, delivery_ids, types, deployments, attempts, actors, datas)
                 with ordinality as k (id, instance, delivery_id, type, deployment, attempt, actor, data, n);
    insert into public.event_hashes (position, hashes)
        select first + k.n - 1, k.h from unnest(hashes) with ordinality as k (h, n);
    -- A hash that is wrong could never be put right: nothing could be signed from then on.
    -- The hashes below are those of the same append, or of the edge that it builds on.
    select min(k.n) filter (where octet_length(k.data) > longest
               or octet_length(k.data) - octet_length(translate(k.data, '[{', '')) > deepest and public.event_log_depth(k.data, deepest) > deepest),
           min(k.n) filter (where substr(k.hashes, 1, 32) <> sha256('\x00'::bytea || public.event_log_leaf(
               first + k.n - 1, k.id, k.instance, k.delivery_id, k.type, k.deployment, k.attempt, k.actor, micros, k.data))),
           min(k.n) filter (where octet_length(k.hashes) > 32 and exists (
               select from generate_series(1, octet_length(k.hashes) / 32 - 1) level
               where substr(k.hashes, 32 * level + 1, 32) is distinct from sha256('\x01'::bytea
                   || substr(coalesce(event_log_append.hashes[k.n - (1::bigint << level - 1)],
                                      (select l.hashes from public.event_hashes l where l.position = first + k.n - 1 - (1::bigint << level - 1))), 32 * level - 31, 32)
                   || substr(k.hashes, 32 * level - 31, 32))))
        into wrong_data, wrong_leaf, wrong_node
        from unnest(ids, instances, delivery_ids, types, deployments, attempts, actors, datas, hashes)
                 with ordinality as k (id, instance, delivery_id, type, deployment, attempt, actor, data, hashes, n);
    if wrong_data is not null then
        raise exception 'the data of position % are longer than % bytes or nested deeper than %', first + wrong_data - 1, longest, deepest using errcode = 'program_limit_exceeded';
    end if;
    if wrong_leaf is not null then
        raise exception 'the first hash of position % is not that of its leaf', first + wrong_leaf - 1 using errcode = 'invalid_parameter_value';
    end if;
    if wrong_node is not null then
        raise exception 'the hashes of position % are not those of the tree below', first + wrong_node - 1 using errcode = 'invalid_parameter_value';
    end if;
    if array_to_string(ids, '') !~ '^[0-9A-HJKMNP-TV-Z]*$' then
        raise exception 'an event ID is no ULID' using errcode = 'invalid_parameter_value';
    end if;
    -- The last ID may be ahead by more: the clock was, before the time was kept from falling.
    id_ms := public.event_log_id_time(ids[n]);
    if id_ms < at_ms - near or id_ms > at_ms + near and id_ms > public.event_log_id_time(head.last_id) then
        raise exception 'event ID % is not of the time of the append, %', ids[n], at using errcode = 'serialization_failure';
    end if;
    update public.log_head h set position = first + n - 1, last_id = ids[n];
    -- A redacted event without the redaction cannot be had, nor one of another
    -- delivery's bodies.
    if 'redacted' = any (types) then
        perform public.event_log_delete(first, first + n - 1);
    end if;
end
$$;
