-- The events of a type that is rare, by position. Those that every deploy has are left
-- out, so that an append of them costs no more: the newest of them are near the end.
create index events_rare on public.events (type, position)
    where type not in ('received', 'forwarded', 'started', 'deployed');
