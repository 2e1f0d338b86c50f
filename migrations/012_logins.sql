-- Who may act in the dashboard: the tokens of login links, each of which becomes a
-- session once, and the sessions. Only digests of them are kept, so that nobody who can
-- read this can act. Nothing here is history: what people do is in the log.
create table public.logins (
    digest   bytea       not null,
    kind     text        not null,
    instance text        not null,
    actor    text        not null,
    made_at  timestamptz not null default clock_timestamp(),
    ends_at  timestamptz not null,
    constraint logins_pkey primary key (digest),
    constraint logins_digest_sha256 check (octet_length(digest) = 32),
    constraint logins_kind_known    check (kind in ('token', 'session')),
    constraint logins_actor_bounded check (char_length(actor) between 1 and 200)
);
{{- if .roles }}

grant select, insert, delete on public.logins to durhack_deployer_app;
{{- end }}
