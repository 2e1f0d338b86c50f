-- GitHub's deployments that were made and may get another state: those that run, and the
-- one of each slug that is live, which is set inactive when another one is.
create table public.reporter_deployments (
    instance   text collate "C" not null,
    -- That of the outbox: the order of a run.
    key        text collate "C" not null,
    slug       text        not null,
    repository text        not null,
    github_id  bigint      not null,
    -- When it was deployed; null until then.
    live_at    timestamptz,
    constraint reporter_deployments_pkey primary key (instance, key)
);
{{- if .roles }}

grant select, insert, update, delete on public.reporter_deployments to durhack_deployer_app;
{{- end }}
