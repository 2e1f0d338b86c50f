-- The followers that made files kept their position here. The queues of the
-- deployments follow from the log and the read models now.
drop table public.checkpoints;
