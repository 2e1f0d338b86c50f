package eventlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/oklog/ulid/v2"
)

const (
	sqlBegin    = `begin isolation level read committed read write`
	sqlLock     = `select head_position, head_last_id, at from public.event_log_lock()`
	sqlExisting = `select e_position, e_id, e_instance, e_delivery_id, e_type, e_deployment, e_attempt, e_actor, e_recorded_at, e_data
		from public.event_log_existing($1, $2, $3, $4, $5)`
	// The newest event that a fence counts, 0 where there is none.
	sqlNewest = `coalesce(case when f.delivery_id = ''
		then (select e.position from public.events e
			where e.type in ('started', 'deployed', 'failed', 'interrupted') and e.instance = f.instance and e.deployment = f.deployment
			order by (-e.position) limit 1)
		else (select e.position from public.events e where e.instance = f.instance and e.delivery_id = f.delivery_id
			order by e.position desc limit 1) end, 0)`
	sqlFences = `select ` + sqlNewest + ` from unnest($1::text[], $2::text[], $3::text[]) with ordinality
		f (instance, deployment, delivery_id, n) order by n`
	sqlNamed = `select public.event_log_body(data) from public.events
		where delivery_id = $1 and instance = $2 and type in ('received', 'redelivered')`
	sqlStore  = `select public.event_log_store($1, $2, $3, $4)`
	sqlAppend = `select public.event_log_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11), clock_timestamp()`

	// What has to hold for an append that was decided beforehand. The lock was taken
	// by a statement before, so that nothing of it changes any more.
	sqlIfHead = ` from public.log_head
		where position = $1 - 1 and last_id = $12 and $2 between clock_timestamp() - interval '1 second' and clock_timestamp()`
	sqlIfFences = ` and not exists (
		select from unnest($%d::text[], $%d::text[], $%d::text[], $%d::bigint[]) f (instance, deployment, delivery_id, newest)
		where f.newest <> ` + sqlNewest + `)`
	sqlIfNot = ` and not exists (select from public.event_log_existing($%d, $%d, $%d, $%d, $%d))`
)

// attempt tries once to commit a batch, in one round trip where nobody else has
// appended since the last batch of this process, and in two or three otherwise.
func (l *Log) attempt(batch []*request) ([]Result, error) {
	ctx, cancel := context.WithTimeout(l.ctx, l.silence)
	defer cancel()
	pooled, err := l.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	// A connection with an open or broken transaction is closed by Release.
	defer pooled.Release()
	conn := pooled.Conn()

	known := l.known
	l.known = head{} // whatever happens next
	d, now, err := appendTo(ctx, conn, known, batch)
	if _, refused := errors.AsType[*pgconn.PgError](err); refused || err == nil && len(d.events) == 0 {
		rollback(ctx, conn)
		d, now, err = lockAndAppend(ctx, conn, known, batch)
	}
	if err != nil {
		rollback(ctx, conn)
		return nil, err
	}
	l.known = now
	if len(d.events) > 0 {
		l.committed(d.events)
	}
	return d.results, nil
}

// head is where the log ended after the last batch of this process, with the edge
// of the tree there. The ID tells it from a log that was restored from a backup and
// has grown again.
type head struct {
	position int64
	lastID   ulid.ULID
	at       time.Time // of the last event
	edge     Edge
	// ahead is how far the database's clock is ahead of the one here, at the least.
	ahead time.Duration
}

// add returns the hashes of events that follow, and the head after them.
func (h head) add(events []Event) (hashes [][]byte, _ head) {
	h.edge.nodes = slices.Clone(h.edge.nodes)
	hashes = make([][]byte, len(events))
	for i := range events {
		hashes[i] = h.edge.Add(LeafHash(&events[i]), nil)
	}
	last := events[len(events)-1]
	h.position, h.lastID, h.at = last.Position, ulid.MustParse(last.ID), last.RecordedAt
	return hashes, h
}

// appendTo appends the batch in one round trip: it decides for the head that is known
// what may be appended if everything is as it was, and lets the database look whether
// it is. If not, nothing was done and no event is returned. A refusal says nothing of
// the batch: an event may be recorded already.
func appendTo(ctx context.Context, conn *pgx.Conn, h head, batch []*request) (decision, head, error) {
	s := snapshot{
		position: h.position, lastID: h.lastID, at: time.Now().Add(h.ahead).UTC().Truncate(time.Microsecond),
		existing: make(map[identity]Event), newest: make(map[fenceKey]int64),
	}
	if h.position == 0 || s.at.Before(h.at) {
		return decision{}, head{}, nil
	}
	var against columns
	var f fences
	var newest []int64
	for _, r := range batch {
		if slices.ContainsFunc(r.rows, func(row row) bool { return row.typ == TypeRedacted }) {
			return decision{}, head{}, nil // the delivery's bodies have to be read
		}
		r.addAgainst(&against)
		if r.fence == nil {
			continue
		}
		key := r.fence.key()
		if _, ok := s.newest[key]; !ok {
			s.newest[key], newest = r.fence.Position, append(newest, r.fence.Position)
			f.add(key)
		}
	}
	d := decide(s, batch)
	if slices.ContainsFunc(d.results, func(r Result) bool { return r.Err != nil }) {
		return decision{}, head{}, nil
	}
	hashes, now := h.add(d.events)
	sql, args := sqlAppend+sqlIfHead, append(appendArguments(d.events, hashes), h.lastID.String())
	if newest != nil {
		sql += fmt.Sprintf(sqlIfFences, len(args)+1, len(args)+2, len(args)+3, len(args)+4)
		args = append(args, f.instances, f.deployments, f.deliveryIDs, newest)
	}
	if against.ids != nil {
		sql += fmt.Sprintf(sqlIfNot, len(args)+1, len(args)+2, len(args)+3, len(args)+4, len(args)+5)
		args = append(args, against.keys()...)
	}
	appended := false
	var b pgx.Batch
	b.Queue(sqlBegin)
	b.Queue(sqlLock)
	b.Queue(sql, args...).QueryRow(func(row pgx.Row) error {
		var clock time.Time
		err := row.Scan(nil, &clock)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		appended, now.ahead = true, time.Until(clock)
		return err
	})
	for _, p := range d.payloads {
		b.Queue(sqlStore+` from public.log_head where last_id = $5`, append(p.arguments(), now.lastID.String())...)
	}
	queueCommit(&b)
	if err := conn.SendBatch(ctx, &b).Close(); err != nil {
		return decision{}, head{}, fmt.Errorf("append %d events: %w", len(d.events), err)
	}
	if !appended {
		return decision{}, head{}, nil
	}
	return d, now, nil
}

// lockAndAppend appends the batch in two round trips. The first takes the head lock
// and reads what the decision needs, the second writes what was decided and commits.
// Between them the edge of the tree has to be read, in a third one, where it is not
// that of the head that is known.
func lockAndAppend(ctx context.Context, conn *pgx.Conn, known head, batch []*request) (decision, head, error) {
	s, err := lockAndRead(ctx, conn, batch)
	if err != nil {
		return decision{}, head{}, err
	}
	d := decide(s, batch)
	if len(d.events) == 0 {
		rollback(ctx, conn)
		return d, known, nil // what holds of it is looked at with the next batch
	}
	now := head{position: s.position, lastID: s.lastID, edge: known.edge, ahead: time.Until(s.at)}
	if known.position != s.position || known.lastID != s.lastID {
		if now.edge, err = readEdge(ctx, conn, s.position); err != nil {
			return decision{}, head{}, err
		}
	}
	hashes, now := now.add(d.events)
	return d, now, write(ctx, conn, d, hashes)
}

func rollback(ctx context.Context, conn *pgx.Conn) {
	if !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
		_, _ = conn.Exec(ctx, "rollback") // failing, the connection is closed on release
	}
}

func lockAndRead(ctx context.Context, conn *pgx.Conn, batch []*request) (snapshot, error) {
	s := snapshot{
		existing: make(map[identity]Event), newest: make(map[fenceKey]int64), bodies: make(map[deliveryKey][]string),
	}
	var keys columns
	var f fences
	for _, r := range batch {
		for _, row := range r.rows {
			keys.add(row)
			if row.typ == TypeRedacted {
				s.bodies[row.delivery()] = []string{}
			}
		}
		r.addAgainst(&keys)
		if r.fence == nil {
			continue
		}
		key := r.fence.key()
		if _, ok := s.newest[key]; !ok {
			s.newest[key] = 0
			f.add(key)
		}
	}

	var b pgx.Batch
	b.Queue(sqlBegin)
	b.Queue(sqlLock).QueryRow(func(row pgx.Row) error {
		var last string
		if err := row.Scan(&s.position, &last, &s.at); err != nil {
			return fmt.Errorf("lock the head of the log: %w", err)
		}
		s.at = s.at.UTC()
		var err error
		if s.lastID, err = ulid.ParseStrict(last); err != nil {
			return fmt.Errorf("read the last event ID: %w", err)
		}
		return nil
	})
	// Each statement sees what was committed before it began, so these see all
	// that the former holders of the lock wrote.
	b.Queue(sqlExisting, keys.keys()...).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			e, err := scanEvent(rows)
			if err != nil {
				return err
			}
			s.existing[identityOf(e)] = e
		}
		return rows.Err()
	})
	if len(f.keys) > 0 {
		b.Queue(sqlFences, f.instances, f.deployments, f.deliveryIDs).Query(func(rows pgx.Rows) error {
			newest, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			for i, position := range newest {
				s.newest[f.keys[i]] = position
			}
			return err
		})
	}
	for key := range s.bodies {
		b.Queue(sqlNamed, key.delivery, key.instance).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				var digest *string
				if err := rows.Scan(&digest); err != nil {
					return fmt.Errorf("read what bodies there are: %w", err)
				}
				if digest != nil {
					s.bodies[key] = append(s.bodies[key], *digest)
				}
			}
			return rows.Err()
		})
	}
	if err := conn.SendBatch(ctx, &b).Close(); err != nil {
		return snapshot{}, fmt.Errorf("begin append: %w", err)
	}
	return s, nil
}

func write(ctx context.Context, conn *pgx.Conn, d decision, hashes [][]byte) error {
	var b pgx.Batch
	for _, p := range d.payloads {
		b.Queue(sqlStore, p.arguments()...)
	}
	b.Queue(sqlAppend, appendArguments(d.events, hashes)...)
	queueCommit(&b)
	if err := conn.SendBatch(ctx, &b).Close(); err != nil {
		return fmt.Errorf("write %d events: %w", len(d.events), err)
	}
	return nil
}

// addAgainst adds the identities of events that would have the group refused.
func (r *request) addAgainst(keys *columns) {
	if r.payload != nil {
		keys.add(row{identity: r.rows[0].delivery().redaction()})
	}
	for _, started := range r.rows {
		if started.typ == TypeStarted && r.fence != nil {
			keys.add(row{identity: started.void()})
		}
	}
}

func queueCommit(b *pgx.Batch) {
	b.Queue("commit").Exec(func(tag pgconn.CommandTag) error {
		if tag.String() != "COMMIT" {
			return fmt.Errorf("commit was answered with %q", tag)
		}
		return nil
	})
}

// arguments are those of sqlStore.
func (p *Payload) arguments() []any {
	body := p.Body
	if body == nil {
		body = []byte{}
	}
	return []any{p.Digest, p.Salt, cleanLikeJSON(p.ContentType), body}
}

// appendArguments are those of sqlAppend.
func appendArguments(events []Event, hashes [][]byte) []any {
	var c columns
	for _, e := range events {
		c.addEvent(e)
	}
	return []any{events[0].Position, events[0].RecordedAt, c.ids, c.instances, c.deliveryIDs, c.types,
		c.deployments, c.attempts, c.actors, c.datas, hashes}
}

// fences are fences as the arrays that are asked for.
type fences struct {
	keys                                []fenceKey
	instances, deployments, deliveryIDs []string
}

func (f *fences) add(key fenceKey) {
	f.keys = append(f.keys, key)
	f.instances = append(f.instances, key.instance)
	f.deployments = append(f.deployments, key.deployment)
	f.deliveryIDs = append(f.deliveryIDs, key.deliveryID)
}

// columns are rows as the arrays that the functions of the log take.
type columns struct {
	ids, instances, deliveryIDs, types []string
	deployments                        []*string
	attempts                           []int32
	actors, datas                      []string
}

func (c *columns) add(r row) {
	c.addEvent(r.event(0, "", time.Time{}))
}

func (c *columns) addEvent(e Event) {
	c.ids = append(c.ids, e.ID)
	c.instances = append(c.instances, e.Instance)
	c.deliveryIDs = append(c.deliveryIDs, e.DeliveryID)
	c.types = append(c.types, string(e.Type))
	c.deployments = append(c.deployments, e.Deployment)
	c.attempts = append(c.attempts, int32(e.Attempt))
	c.actors = append(c.actors, e.Actor)
	c.datas = append(c.datas, string(e.Data))
}

// keys are the identities, as the arguments of sqlExisting.
func (c *columns) keys() []any {
	return []any{c.deliveryIDs, c.instances, c.types, c.deployments, c.attempts}
}
