-- The hashes of the tree are made by the programs that append and import. What is left
-- here is the leaf, with which event_log_append and an import compare them.
drop function public.event_log_fill_hashes();
drop function public.event_log_leaf(public.events);
