// Package samplelog owns event logs of tests and benchmarks that were not written
// through the log's own path: as many events as are asked for, by one statement, since
// an append of each would take minutes for a million; and events that somebody put there.
package samplelog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"golang.org/x/mod/sumdb/tlog"
)

// Fill writes n events, four a delivery (received, forwarded, started,
// deployed), into an empty log and moves its head. One delivery in late (0: none)
// comes again a thousand deliveries after it. conn must be of the owner of the
// tables, who alone may write them.
func Fill(ctx context.Context, conn *pgx.Conn, n, late int) error {
	if _, err := conn.Exec(ctx, insert, n, late); err != nil {
		return fmt.Errorf("fill the log: %w", err)
	}
	if _, err := conn.Exec(ctx, `update public.log_head set position = $1::bigint, last_id = '01J' || lpad($1::bigint::text, 23, '0')`, n); err != nil {
		return fmt.Errorf("move the head of the log: %w", err)
	}
	if _, err := conn.Exec(ctx, "vacuum analyze public.events"); err != nil {
		return fmt.Errorf("vacuum the log: %w", err)
	}
	return nil
}

// Complete adds what Fill leaves out: the hashes of the tree, and a body of 256
// bytes for each delivery. It takes several times as long.
func Complete(ctx context.Context, conn *pgx.Conn) error {
	if err := Rehash(ctx, conn); err != nil {
		return err
	}
	for _, sql := range []string{
		`insert into public.payloads (digest, salt, content_type, body)
			select encode(sha256(decode(substr(h, 1, 32), 'hex') || convert_to(repeat(h, 4), 'UTF8')), 'hex'), decode(substr(h, 1, 32), 'hex'), 'application/json', convert_to(repeat(h, 4), 'UTF8')
			from (select encode(sha256(int8send((position - 1) / 4)), 'hex') as h from public.events where type = 'received') r`,
		"vacuum analyze public.event_hashes", "vacuum analyze public.payloads",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("complete the log: %w", err)
		}
	}
	return nil
}

// DB is a connection, a transaction or a pool.
type DB interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error)
}

// Rehash stores the hashes of the events behind the last ones that have any, as a
// program of the log would, and anyone who made history again. They are tlog's and not
// those of eventlog's tree, which tests compare with them.
func Rehash(ctx context.Context, db DB) error {
	var position, size int64
	var row, stored []byte
	rows, _ := db.Query(ctx, `select position, hashes from public.event_hashes order by position`)
	if _, err := pgx.ForEachRow(rows, []any{&size, &row}, func() error { stored = append(stored, row...); return nil }); err != nil {
		return fmt.Errorf("read the hashes: %w", err)
	}
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		found := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			copy(found[i][:], stored[index*tlog.HashSize:])
		}
		return found, nil
	})
	n := size
	rows, _ = db.Query(ctx, `select position, sha256('\x00'::bytea || public.event_log_leaf(position, id, instance, delivery_id,
			type, deployment, attempt, actor, (extract(epoch from recorded_at) * 1000000)::bigint::text, data::text))
		from public.events where position > $1 order by position`, size)
	if _, err := pgx.ForEachRow(rows, []any{&position, &row}, func() error {
		hashes, err := tlog.StoredHashesForRecordHash(n, tlog.Hash(row), reader)
		for _, h := range hashes {
			stored = append(stored, h[:]...)
		}
		if n++; position != n {
			return fmt.Errorf("the log has no position %d", n)
		}
		return err
	}); err != nil {
		return fmt.Errorf("hash the events: %w", err)
	}
	at := func(n int64) int64 { return tlog.StoredHashCount(n) * tlog.HashSize }
	_, err := db.CopyFrom(ctx, pgx.Identifier{"public", "event_hashes"}, []string{"position", "hashes"}, pgx.CopyFromSlice(int(n-size), func(i int) ([]any, error) {
		p := size + int64(i)
		return []any{p + 1, stored[at(p):at(p+1)]}, nil
	}))
	if err != nil {
		return fmt.Errorf("store the hashes: %w", err)
	}
	return nil
}

const insert = `
with e as (
    select p, (p - 1) / 4 as d, (p - 1) % 4 as k from generate_series(1, $1::bigint) p
), f as (
    select *, 'prod' as instance, encode(sha256(int8send(d)), 'hex') as h,
        timestamptz '2026-01-01 00:00:00Z' + p * interval '1 second' as at,
        $2::bigint > 0 and k = 3 and d > 1000 and d % greatest($2::bigint, 1) = 0 as again
    from e
), g as (
    select *, substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-' || substr(h, 13, 4) || '-' || substr(h, 17, 4) || '-' || substr(h, 21, 12) as delivery_id,
        encode(sha256(int8send(d - 1000)), 'hex') as h2
    from f
)
insert into public.events (position, id, instance, delivery_id, type, deployment, attempt, actor, recorded_at, data)
select p, '01J' || lpad(p::text, 23, '0'), instance,
    case when again then substr(h2, 1, 8) || '-' || substr(h2, 9, 4) || '-' || substr(h2, 13, 4) || '-' || substr(h2, 17, 4) || '-' || substr(h2, 21, 12)
         else delivery_id end,
    case when again then 'redelivered' else (array['received', 'forwarded', 'started', 'deployed'])[k + 1] end,
    case when k = 0 or again then null else 'app-' || d % 8 end,
    case when again then d else 1 end, 'octocat', at,
    case when again then json_build_object('v', 1, 'action', 'ignored', 'detail', 'it is live', 'received_at', at, 'entry', '01J00000000000000000000000')
    else case k
    when 0 then json_build_object('v', 1, 'event', 'push', 'ref', 'refs/heads/main', 'repository', 'octo/app-' || d % 8,
        'commit', substr(h, 1, 40), 'hook_id', '123456789', 'received_at', at, 'payload_digest', encode(sha256(decode(substr(h, 1, 32), 'hex') || convert_to(repeat(h, 4), 'UTF8')), 'hex'), 'payload_size', 256,
        'content_type', 'application/json', 'source', 'github', 'entry', '01J' || lpad(d::text, 23, '0'))
    when 1 then json_build_object('v', 1, 'branch', 'main', 'commit', substr(h, 1, 40),
        'rule', 'octo/app-' || d % 8 || ' refs/heads/main -> app-' || d % 8, 'config_digest', h)
    when 2 then json_build_object('v', 1, 'commit', substr(h, 1, 40), 'previous_commit', substr(h, 2, 40), 'host', 'web-1', 'pid', 4242,
        'plan', json_build_array('fetch', 'checkout', 'install', 'build', 'restart'), 'run_log', '/var/lib/durhack-deployer/runs/app-' || d % 8 || '/' || delivery_id || '-1.log')
    else json_build_object('v', 1, 'commit', substr(h, 1, 40), 'previous_commit', substr(h, 2, 40),
        'steps', json_build_array(
            json_build_object('name', 'fetch', 'duration_ms', 812, 'result', 'ok'), json_build_object('name', 'checkout', 'duration_ms', 95, 'result', 'ok'),
            json_build_object('name', 'install', 'duration_ms', 9312, 'result', 'ok'), json_build_object('name', 'build', 'duration_ms', 21312, 'result', 'ok'),
            json_build_object('name', 'restart', 'duration_ms', 512, 'result', 'ok')),
        'duration_ms', 32043, 'run_log_digest', h, 'run_log', '/var/lib/durhack-deployer/runs/app-' || d % 8 || '/' || delivery_id || '-1.log')
    end end
from g order by p`
