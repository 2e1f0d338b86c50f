package eventlog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
)

// eventColumns are in the order that scanEvent and Scan expect.
const eventColumns = `position, id, instance, delivery_id, type, deployment, attempt, actor, recorded_at, data`

const (
	sqlHead = `select position from public.log_head`
	// The expression of the index events_commit, character for character.
	sqlCommitHash = `left(split_part(split_part(data::text, '"commit":"', 2), '"', 1), 64) collate "C"`
	// Spelled out, an index that holds only these is found without looking at a parameter.
	sqlReceived      = `type = 'received'`
	sqlDeliveryBytes = `(delivery_id collate "C")`
	sqlRead          = `select ` + eventColumns + ` from public.events where position > $1 order by position limit $2`
)

// sqlRare is the condition of the index events_rare, which has the types that are not
// common.
const sqlRare = `type not in ('received', 'forwarded', 'started', 'deployed')`

var common = []Type{TypeReceived, TypeForwarded, TypeStarted, TypeDeployed}

// sqlInstances hops from one instance to the next along the index events_delivery.
const sqlInstances = `with recursive hop (instance) as (
		select min(instance) from public.events where type = 'received'
		union all
		select (select min(e.instance) from public.events e where e.type = 'received' and e.instance > hop.instance)
		from hop where hop.instance is not null)
	select instance from hop where instance is not null`

// Instances lists the instances that have received anything, in order.
func (l *Log) Instances(ctx context.Context) ([]string, error) {
	rows, err := l.pool.Query(ctx, sqlInstances)
	if err != nil {
		return nil, fmt.Errorf("list the instances: %w", err)
	}
	instances, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list the instances: %w", err)
	}
	return instances, nil
}

// Head is the position of the newest event, 0 where there is none.
func (l *Log) Head(ctx context.Context) (int64, error) {
	var head int64
	if err := l.pool.QueryRow(ctx, sqlHead).Scan(&head); err != nil {
		return 0, fmt.Errorf("read the head of the log: %w", err)
	}
	return head, nil
}

// Read returns the events that follow position after, at most limit of them,
// without a gap. It is a *HoleError where the next position is missing, and
// where after itself is past the end of the log.
func (l *Log) Read(ctx context.Context, after int64, limit int) ([]Event, error) {
	return l.read(ctx, after, limit, 0)
}

// read is Read that stops early once the data come to maxBytes; 0 is no bound.
func (l *Log) read(ctx context.Context, after int64, limit, maxBytes int) ([]Event, error) {
	if limit < 1 {
		return nil, nil
	}
	var head int64
	var events []Event
	var b pgx.Batch
	b.Queue(sqlHead).QueryRow(func(row pgx.Row) error { return row.Scan(&head) })
	// This statement's snapshot is the later one: it sees all up to head.
	b.Queue(sqlRead, after, limit).Query(func(rows pgx.Rows) error {
		size := 0
		for rows.Next() {
			e, err := scanEvent(rows)
			if err != nil {
				return err
			}
			events = append(events, e)
			if size += len(e.Data); maxBytes > 0 && size >= maxBytes {
				limit = len(events)
				rows.Close()
				return nil
			}
		}
		return rows.Err()
	})
	if err := l.pool.SendBatch(ctx, &b).Close(); err != nil {
		return nil, fmt.Errorf("read the log after position %d: %w", after, err)
	}
	want := after + 1
	for _, e := range events {
		if e.Position != want {
			return nil, &HoleError{Want: want, Got: e.Position, Head: head}
		}
		want++
	}
	if len(events) < limit && (head >= want || head < after) {
		return nil, &HoleError{Want: want, Head: head}
	}
	return events, nil
}

// sqlAround halves the log until it stands between what was recorded before a time
// and what was not: positions and times rise together. Where a position is missing, it
// stops there, and the answer is a range. With the limit the planner knows that there is one
// head, and compiles nothing, which would take longer than all the rest.
const sqlAround = `with recursive search (low, high) as (
		(select 0::bigint, position from public.log_head limit 1)
		union all
		select case when e.before then e.position else s.low end, case when e.before then s.high else e.position - 1 end
		from search s, lateral (select position, recorded_at < $1 as before from public.events
			where position = (s.low + s.high + 1) / 2) e
		where s.low < s.high)
	select max(low), min(high) from search`

// Before is the position of the newest event that was recorded before a time, 0 where there is none.
func (l *Log) Before(ctx context.Context, t time.Time) (int64, error) {
	_, high, err := l.around(ctx, t)
	return high, err
}

// around returns the position of the newest event that was recorded before a time, or
// where the log has a hole, the bounds of it.
func (l *Log) around(ctx context.Context, t time.Time) (low, high int64, err error) {
	if err := l.pool.QueryRow(ctx, sqlAround, t).Scan(&low, &high); err != nil {
		return 0, 0, fmt.Errorf("look for %s in the log: %w", t.Format(time.RFC3339), err)
	}
	return low, high, nil
}

// Filter chooses events; what is zero does not restrict.
type Filter struct {
	Instance   string
	DeliveryID string
	Deployment string
	Types      []Type
	// Since is inclusive, Until exclusive; both are about RecordedAt.
	Since, Until time.Time
	// After leaves out positions up to and including it, and Through, where not 0, those
	// behind it; Positions, where not nil, are those to return.
	After     int64
	Through   int64
	Positions []int64
	// Limit is the number of events to return at most; 0 is all of them. They are
	// the first ones, or with Newest the last ones, still in position order.
	Limit  int
	Newest bool
	// DeliveryIDs, where not nil, are the deliveries to return; an empty list is none.
	DeliveryIDs []string
	// DeliveryPrefix is the beginning of a delivery ID. Together with TypeReceived
	// alone and an Instance there is an index for it.
	DeliveryPrefix string
	// Commit is the beginning of a hash, in lower case: only events whose data
	// name such a commit. Together with TypeReceived alone there is an index for it.
	Commit string
	// Whole says that Commit is a whole hash, which is faster: the server need not
	// look at its value to plan.
	Whole bool
}

func (f Filter) query() (string, []any) {
	var where []string
	var args []any
	add := func(condition string, arg any) {
		args = append(args, arg)
		where = append(where, fmt.Sprintf(condition, len(args)))
	}
	add("position > $%d", f.After)
	if f.Through > 0 {
		add("position <= $%d", f.Through)
	}
	if f.Positions != nil {
		add("position = any($%d)", f.Positions)
	}
	if f.Instance != "" {
		add("instance = $%d", clean(f.Instance))
	}
	if f.DeliveryID != "" {
		add("delivery_id = $%d", clean(f.DeliveryID))
	}
	if len(f.DeliveryIDs) == 1 {
		add("delivery_id = $%d", clean(f.DeliveryIDs[0]))
	} else if f.DeliveryIDs != nil {
		ids := make([]string, len(f.DeliveryIDs))
		for i, id := range f.DeliveryIDs {
			ids[i] = clean(id)
		}
		add("delivery_id = any($%d)", ids)
	}
	if f.DeliveryPrefix != "" {
		// By bytes, what begins so lies before what goes on with the greatest character.
		add(sqlDeliveryBytes+" >= $%d", clean(f.DeliveryPrefix))
		add(sqlDeliveryBytes+" < $%d", clean(f.DeliveryPrefix)+string(unicode.MaxRune))
	}
	if f.Deployment != "" {
		add("deployment = $%d", clean(f.Deployment))
	}
	if f.Commit != "" && f.Whole {
		add(sqlCommitHash+" = $%d", clean(f.Commit))
	} else if f.Commit != "" {
		// What begins so, and goes on with hexadecimal digits, is what lies between.
		add(sqlCommitHash+" >= $%d", clean(f.Commit))
		add(sqlCommitHash+" < $%d", clean(f.Commit)+"g")
	}
	if len(f.Types) == 1 && f.Types[0] == TypeReceived {
		where = append(where, sqlReceived)
	} else if len(f.Types) > 0 {
		types := make([]string, len(f.Types))
		for i, t := range f.Types {
			types[i] = clean(string(t))
		}
		add("type = any($%d)", types)
		if !slices.ContainsFunc(f.Types, func(t Type) bool { return slices.Contains(common, t) }) {
			where = append(where, sqlRare)
		}
	}
	if !f.Since.IsZero() {
		add("recorded_at >= $%d", f.Since)
	}
	if !f.Until.IsZero() {
		add("recorded_at < $%d", f.Until)
	}
	sql := `select ` + eventColumns + ` from public.events where ` + strings.Join(where, " and ") + ` order by position`
	if f.Limit <= 0 {
		return sql, args
	}
	args = append(args, f.Limit)
	if f.Newest {
		return fmt.Sprintf(`select * from (%s desc limit $%d) newest order by position`, sql, len(args)), args
	}
	return fmt.Sprintf("%s limit $%d", sql, len(args)), args
}

// Find streams the events that the filter chooses, in position order, and does
// not hold them in memory. An error is the last thing it yields. It holds a
// connection of the pool while it is being ranged over.
func (l *Log) Find(ctx context.Context, f Filter) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		// Ended by the caller's break too, which leaves the rest on the server.
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		f, err := l.bounded(ctx, f)
		if err != nil {
			yield(Event{}, err)
			return
		}
		sql, args := f.query()
		rows, err := l.pool.Query(ctx, sql, args...)
		if err != nil {
			yield(Event{}, fmt.Errorf("find events: %w", err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			e, err := scanEvent(rows)
			if err != nil {
				yield(Event{}, err)
				return
			}
			if !yield(e, nil) {
				cancel()
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(Event{}, fmt.Errorf("find events: %w", err))
		}
	}
}

// FindEach reads what each of the filters chooses, all in one round trip.
func (l *Log) FindEach(ctx context.Context, filters []Filter) ([][]Event, error) {
	found := make([][]Event, len(filters))
	var b pgx.Batch
	for i, f := range filters {
		sql, args := f.query()
		b.Queue(sql, args...).Query(func(rows pgx.Rows) (err error) {
			found[i], err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Event, error) { return scanEvent(row) })
			return err
		})
	}
	if err := l.pool.SendBatch(ctx, &b).Close(); err != nil {
		return nil, fmt.Errorf("find events: %w", err)
	}
	return found, nil
}

// bounded looks the positions up between which the times of a filter lie, so that
// nothing before them is read.
func (l *Log) bounded(ctx context.Context, f Filter) (Filter, error) {
	if !f.Since.IsZero() {
		low, _, err := l.around(ctx, f.Since)
		if err != nil {
			return f, err
		}
		f.After = max(f.After, low)
	}
	if !f.Until.IsZero() {
		_, high, err := l.around(ctx, f.Until)
		if err != nil {
			return f, err
		}
		high = max(high, 1) // which the time leaves out, if it is too new
		if f.Through == 0 || high < f.Through {
			f.Through = high
		}
	}
	return f, nil
}

func scanEvent(row pgx.Row) (Event, error) {
	var e Event
	err := row.Scan(&e.Position, &e.ID, &e.Instance, &e.DeliveryID, &e.Type, &e.Deployment, &e.Attempt, &e.Actor,
		&e.RecordedAt, (*[]byte)(&e.Data))
	if err != nil {
		return Event{}, fmt.Errorf("read event: %w", err)
	}
	e.RecordedAt = e.RecordedAt.UTC()
	return e, nil
}

// Payload returns the body that is stored under the digest, or ErrNoPayload.
func (l *Log) Payload(ctx context.Context, digest string) (Payload, error) {
	p := Payload{Digest: digest}
	err := l.pool.QueryRow(ctx, `select salt, body, content_type from public.payloads where digest = $1`, clean(digest)).
		Scan(&p.Salt, &p.Body, &p.ContentType)
	if errors.Is(err, pgx.ErrNoRows) {
		return Payload{}, fmt.Errorf("payload %q: %w", digest, ErrNoPayload)
	}
	if err != nil {
		return Payload{}, fmt.Errorf("read payload %q: %w", digest, err)
	}
	return p, nil
}
