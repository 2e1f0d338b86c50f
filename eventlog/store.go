package eventlog

import (
	"context"
	"errors"
	"fmt"
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
	sqlFence = `select position from public.events
		where type in ('started', 'deployed', 'failed', 'interrupted') and instance = $1 and deployment = $2
		order by (-position) limit 1`
	sqlDeliveryFence = `select position from public.events where instance = $1 and delivery_id = $2 order by position desc limit 1`
	sqlNamed         = `select public.event_log_body(data) from public.events
		where delivery_id = $1 and instance = $2 and type in ('received', 'redelivered')`
	sqlPayload = `select public.event_log_store($1, $2, $3, $4)`
	sqlAppend  = `select public.event_log_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`
	sqlCommit  = `commit`
)

// attempt tries once to commit a batch: one transaction, two round trips. The
// first takes the head lock and reads what the decision needs, the second
// writes what was decided and commits. Between them the new leaves are hashed
// onto the edge of the tree, which has to be read, in a third one, where another
// process has appended since the last batch of this one.
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

	s, err := lockAndRead(ctx, conn, batch)
	if err != nil {
		rollback(ctx, conn)
		return nil, err
	}
	d := decide(s, batch)
	if len(d.events) == 0 {
		rollback(ctx, conn)
		return d.results, nil
	}
	tree, err := l.edgeOf(ctx, conn, s)
	if err != nil {
		rollback(ctx, conn)
		return nil, err
	}
	hashes := make([][]byte, len(d.events))
	for i := range d.events {
		hashes[i] = tree.Add(LeafHash(&d.events[i]), nil)
	}
	if err := write(ctx, conn, d, hashes); err != nil {
		rollback(ctx, conn)
		return nil, err
	}
	last := d.events[len(d.events)-1]
	l.edge = knownEdge{last.Position, last.ID, tree}
	l.committed()
	return d.results, nil
}

// knownEdge is the edge of the tree after the last batch of this process. It
// holds while the head of the log is the one that this batch left; the ID tells
// it from a log that was restored from a backup and has grown again.
type knownEdge struct {
	position int64
	lastID   string
	edge     Edge
}

// edgeOf is the edge of the tree at the head that is locked. Whatever happens
// next, it is not known any more.
func (l *Log) edgeOf(ctx context.Context, conn *pgx.Conn, s snapshot) (Edge, error) {
	known := l.edge
	l.edge = knownEdge{}
	if known.position == s.position && known.lastID == s.lastID.String() {
		return known.edge, nil
	}
	return ReadEdge(ctx, conn, s.position)
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
	var fences []fenceKey
	for _, r := range batch {
		for _, row := range r.rows {
			keys.add(row)
			if row.typ == TypeStarted && r.fence != nil {
				void := row
				void.identity = row.void()
				keys.add(void)
			}
			if row.typ == TypeRedacted {
				s.bodies[row.delivery()] = []string{}
			}
		}
		if r.payload != nil {
			keys.add(row{identity: r.rows[0].delivery().redaction()})
		}
		if r.fence != nil {
			key := r.fence.key()
			if _, ok := s.newest[key]; !ok {
				s.newest[key] = 0
				fences = append(fences, key)
			}
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
	b.Queue(sqlExisting, keys.deliveryIDs, keys.instances, keys.types, keys.deployments, keys.attempts).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			e, err := scanEvent(rows)
			if err != nil {
				return err
			}
			s.existing[identityOf(e)] = e
		}
		return rows.Err()
	})
	for _, key := range fences {
		sql, of := sqlFence, key.deployment
		if key.deliveryID != "" {
			sql, of = sqlDeliveryFence, key.deliveryID
		}
		b.Queue(sql, key.instance, of).QueryRow(func(row pgx.Row) error {
			var position int64
			if err := row.Scan(&position); err != nil && !errors.Is(err, pgx.ErrNoRows) {
				return fmt.Errorf("read the fence: %w", err)
			}
			s.newest[key] = position
			return nil
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
		b.Queue(sqlPayload, p.Digest, p.Salt, cleanLikeJSON(p.ContentType), notNil(p.Body))
	}
	var c columns
	for _, e := range d.events {
		c.addEvent(e)
	}
	b.Queue(sqlAppend, d.events[0].Position, d.events[0].RecordedAt, c.ids, c.instances, c.deliveryIDs, c.types,
		c.deployments, c.attempts, c.actors, c.datas, hashes)
	b.Queue(sqlCommit).Exec(func(tag pgconn.CommandTag) error {
		if tag.String() != "COMMIT" {
			return fmt.Errorf("commit was answered with %q", tag)
		}
		return nil
	})
	if err := conn.SendBatch(ctx, &b).Close(); err != nil {
		return fmt.Errorf("write %d events: %w", len(d.events), err)
	}
	return nil
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
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
