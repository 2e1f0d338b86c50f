-- Answers that need not read the whole log: `why COMMIT` begins with the
-- deliveries that carried a commit, and `log --deployment` with the events of one
-- deployment. The commit is found as text, since ->> refuses data that have \u0000
-- anywhere, and ordered by bytes, since how it begins is what is asked for. The
-- expression is that of the question, character for character.
create index events_commit on public.events (((substring(data::text from '"commit"\s*:\s*"([0-9a-f]+)"')) collate "C"))
    where type = 'received';
create index events_deployment on public.events (deployment, position) where deployment is not null;

-- Up to which position an import brought no bodies along, so that `verify` can tell
-- a body that was never there from one that was deleted. Written once, by the import
-- of an empty log, in its transaction; there is no row where bodies came, or where
-- nothing was imported. It is a claim of the owner's, and no hash covers it.
create table public.bodies_left_out (
    only_row boolean primary key default true,
    position bigint  not null,
    constraint bodies_left_out_has_one_row      check (only_row),
    constraint bodies_left_out_position_counted check (position >= 1)
);

create function public.event_log_only_imported() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from public.payloads) or (select h.position from public.log_head h) <> 0 then
        raise exception 'insert into public.bodies_left_out is refused: the log is not empty'
            using errcode = 'insufficient_privilege';
    end if;
    return new;
end
$$;

create trigger bodies_left_out_unchanged before update or delete or truncate on public.bodies_left_out
    for each statement execute function public.event_log_refuse();
alter table public.bodies_left_out enable always trigger bodies_left_out_unchanged;
create trigger bodies_left_out_imported before insert on public.bodies_left_out
    for each row execute function public.event_log_only_imported();
alter table public.bodies_left_out enable always trigger bodies_left_out_imported;
{{- if .roles }}

grant select on public.bodies_left_out to durhack_deployer_app;
{{- end }}
