-- What the append function does not take its caller's word for: the time, the IDs,
-- the hashes, and whose body it is that a redaction deletes.

-- A salt can take in a whole body and the digest stays as it is, unless its length is
-- fixed. Bodies that are stored already are left to `verify`.
alter table public.payloads add constraint payloads_salt_is_16_bytes check (octet_length(salt) = 16) not valid;

-- The time never falls from one position to the next, whoever inserts: neither among
-- those that are inserted, nor against those that stand before and after them.
create function public.event_log_time_rises() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
    came record;
    below bigint;
    above bigint;
    fallen boolean;
begin
    select min(f.position) as lowest, max(f.position) as highest, min(f.recorded_at) as earliest, max(f.recorded_at) as latest, count(*) as rows
        into came from fresh f;
    select max(e.position) into below from public.events e where e.position < came.lowest;
    select min(e.position) into above from public.events e where e.position > came.highest;
    -- Those of an append are of one time, and there is nothing between them.
    if came.earliest = came.latest and came.highest - came.lowest + 1 = came.rows then
        fallen := exists (select from public.events e
            where e.position = below and e.recorded_at > came.earliest or e.position = above and e.recorded_at < came.latest);
    else
        fallen := exists (
            select from (select n.recorded_at < lag(n.recorded_at) over (order by n.position) as falls
                         from public.events n where n.position between coalesce(below, came.lowest) and coalesce(above, came.highest)) e
            where e.falls);
    end if;
    if fallen then
        raise exception 'insert into public.events is refused: an event would be recorded before the one before it'
            using errcode = 'insufficient_privilege';
    end if;
    return null;
end
$$;

create trigger events_time_rises after insert on public.events
    referencing new table as fresh for each statement execute function public.event_log_time_rises();
alter table public.events enable always trigger events_time_rises;

-- The JSON of data without its escapes, which some of Postgres's functions refuse (\u0000).
create function public.event_log_plain(data json) returns json
    language sql immutable
as $$
    select regexp_replace(data::text, '\\(u[0-9A-Fa-f]{4}|.)', '?', 'g')::json
$$;

-- The digest of the body that a received or redelivered names, or null.
create function public.event_log_body(data json) returns text
    language sql immutable
as $$
    select public.event_log_plain(data) ->> 'payload_digest'
$$;

-- The digests of the bodies that a redacted deletes.
create function public.event_log_bodies(data json) returns setof text
    language sql immutable
as $$
    select json_array_elements_text(digests)
    from (select public.event_log_plain(data) -> 'payload_digests' as digests) d
    where json_typeof(digests) = 'array'
$$;

create or replace function public.event_log_only_redacted() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from public.events e, public.event_log_bodies(e.data) digest where e.type = 'redacted' and digest = old.digest) then
        raise exception 'delete of payload % is refused: no redacted event names it', old.digest using errcode = 'insufficient_privilege';
    end if;
    return old;
end
$$;

-- How deep a JSON value is nested, at most + 1. Every array and object is taken away that
-- has none within it, until there are none left.
create function public.event_log_depth(data text, at_most integer) returns integer
    language plpgsql immutable
as $$
declare
    brackets text := regexp_replace(regexp_replace(data, '"([^"\\]|\\.)*"', '', 'g'), '[^][{}]', '', 'g');
    depth integer := 0;
begin
    while brackets <> '' and depth <= at_most loop
        brackets := regexp_replace(brackets, '\[\]|{}', '', 'g');
        depth := depth + 1;
    end loop;
    return depth;
end
$$;

-- The time in a ULID, in milliseconds since 1970.
create function public.event_log_id_time(id text) returns bigint
    language plpgsql immutable
as $$
declare
    ms bigint := 0;
begin
    for i in 1..10 loop
        ms := ms << 5 | strpos('0123456789ABCDEFGHJKMNPQRSTVWXYZ', substr(id, i, 1)) - 1;
    end loop;
    return ms;
end
$$;

-- The leaf of 001 from its columns. A SQL function is taken into the query that asks,
-- and then costs half as much.
create function public.event_log_leaf(
    pos bigint, id text, instance text, delivery_id text, type text, deployment text, attempt integer, actor text, micros text, data text)
    returns bytea
    language sql stable
as $$
    select convert_to('25:durhack-deployer/event/v1,'
        || length(pos::text) || ':' || pos || ','
        || octet_length(id) || ':' || id || ','
        || octet_length(convert_to(instance, 'UTF8')) || ':' || instance || ','
        || octet_length(convert_to(delivery_id, 'UTF8')) || ':' || delivery_id || ','
        || octet_length(type) || ':' || type || ','
        || octet_length(convert_to(coalesce(deployment, ''), 'UTF8')) || ':' || coalesce(deployment, '') || ','
        || length(attempt::text) || ':' || attempt || ','
        || octet_length(convert_to(actor, 'UTF8')) || ':' || actor || ','
        || length(micros) || ':' || micros || ','
        || octet_length(convert_to(data, 'UTF8')) || ':' || data || ',',
        'UTF8')
$$;

-- As in 001, but the time does not fall where the server's clock steps back: then it
-- stands still until the clock has caught up.
create or replace function public.event_log_lock(out head_position bigint, out head_last_id text, out at timestamptz)
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    -- A committed event is on disk, whatever the database's default is; and a
    -- writer that vanished or was stopped gives the lock back.
    perform set_config('synchronous_commit', 'on', true) where current_setting('synchronous_commit') = 'off';
    perform set_config('idle_in_transaction_session_timeout', '30s', true);
    select h.position, h.last_id into strict head_position, head_last_id from public.log_head h for update;
    at := greatest(clock_timestamp(), (select e.recorded_at from public.events e where e.position = head_position));
end
$$;

-- Deletes the bodies that the redactions from one position to another name. A body is
-- of the delivery that was the first to name it: nobody knows a digest before.
create function public.event_log_delete(lowest bigint, highest bigint) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    body record;
begin
    for body in select r.instance, r.delivery_id, digest
                from public.events r, public.event_log_bodies(r.data) digest
                where r.position between lowest and highest and r.type = 'redacted' loop
        if not exists (
            select from (select e.instance, e.delivery_id from public.events e
                         where e.type in ('received', 'redelivered') and strpos(e.data::text, body.digest) > 0
                           and public.event_log_body(e.data) = body.digest
                         order by e.position limit 1) first
            where first.instance = body.instance and first.delivery_id = body.delivery_id) then
            raise exception 'payload % is not one of delivery %', body.digest, body.delivery_id using errcode = 'invalid_parameter_value';
        end if;
        delete from public.payloads p where p.digest = body.digest;
    end loop;
end
$$;

create or replace function public.event_log_store(digest text, salt bytea, content_type text, body bytea) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if octet_length(salt) is distinct from 16 then
        raise exception 'the salt of payload % has % bytes, and not 16', digest, octet_length(salt) using errcode = 'invalid_parameter_value';
    end if;
    if digest is distinct from encode(sha256(salt || body), 'hex') then
        raise exception 'payload % is not what its digest says', digest using errcode = 'invalid_parameter_value';
    end if;
    insert into public.payloads (digest, salt, content_type, body)
        values (event_log_store.digest, event_log_store.salt, event_log_store.content_type, event_log_store.body)
        on conflict on constraint payloads_pkey do nothing;
end
$$;

revoke all on function public.event_log_delete from public;

-- As in 004, without a regular expression, which took longer than all that is new in an
-- append. Data are spelled as the log spells them.
drop index public.events_commit;
create index events_commit on public.events ((left(split_part(split_part(data::text, '"commit":"', 2), '"', 1), 64) collate "C"))
    where type = 'received';
