-- How far followers that keep no tables of their own have come: one row for
-- each follower of each instance. The materializer is one: what it makes is files.
create table public.checkpoints (
    name       text        not null,
    instance   text        not null,
    position   bigint      not null,
    updated_at timestamptz not null default now(),
    constraint checkpoints_pkey primary key (name, instance),
    constraint checkpoints_position_counted check (position >= 0)
);
{{- if .roles }}

grant select, insert, update on public.checkpoints to durhack_deployer_app;
{{- end }}
