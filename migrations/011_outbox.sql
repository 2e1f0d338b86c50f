-- What followers of the log owe to the outside (internal/outbox). None of it is
-- history: the log says all of it, and an import begins without any.
create table public.outbox_positions (
    channel    text collate "C" not null,
    instance   text collate "C" not null,
    -- Up to here the log was read, and what it gave was put into the outbox: both in
    -- one transaction, compare-and-set.
    position   bigint      not null,
    -- One process at a time follows and sends; it has the row until then.
    holder     text        not null,
    held_until timestamptz not null,
    constraint outbox_positions_pkey primary key (channel, instance),
    constraint outbox_positions_counted check (position >= 0)
);

-- One row a key, the newest: an older one behind it is never sent. What was sent is
-- removed.
create table public.outbox (
    channel   text collate "C" not null,
    instance  text collate "C" not null,
    key       text collate "C" not null,
    -- What a refusal is about: a repository, say.
    scope     text collate "C" not null,
    -- Of the event that it tells of, and when that was recorded.
    position  bigint      not null,
    at        timestamptz not null,
    body      jsonb       not null,
    next_at   timestamptz not null,
    tries     integer     not null default 0,
    state     text        not null default 'owed',
    -- The last failure, and when it was.
    error     text        not null default '',
    failed_at timestamptz,
    constraint outbox_pkey primary key (channel, instance, key),
    constraint outbox_state_known check (state in ('owed', 'refused', 'given_up')),
    constraint outbox_end_explained check (state = 'owed' or error <> '' and failed_at is not null)
);

create index outbox_owed on public.outbox (channel, instance, next_at) where state = 'owed';
{{- if .roles }}

grant select, insert, update, delete on public.outbox_positions, public.outbox to durhack_deployer_app;
{{- end }}
