-- A delivery may be named by the beginning of its ID. By bytes, whatever the
-- collation of the database, since how it begins is what is asked for; by instance
-- first, so that the index also tells which instances there are.
create index events_delivery on public.events (instance, (delivery_id collate "C")) where type = 'received';
