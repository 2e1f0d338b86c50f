package eventlog

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// channel carries the hint that events were committed; its payload is empty.
const channel = "durhack_events"

const (
	// gather is how long a hint to other processes waits for the next one.
	gather = 20 * time.Millisecond
	// apart is how far followers of other processes are spread that one hint wakes:
	// a hundred of them must not read at the moment at which a deploy begins.
	apart = 100 * time.Millisecond
)

// committed tells followers that there is something new: those of this process
// at once, with the events, those of others by a NOTIFY that is soon sent.
func (l *Log) committed(events []Event) {
	l.recent.Store(&events)
	l.wakeFollowers()
	select {
	case l.notify <- struct{}{}:
	default: // one is due already and will speak for this commit too
	}
}

func (l *Log) wakeFollowers() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for wake := range l.followers {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

// runNotifier sends the hints. A NOTIFY within an append's transaction would
// make all commits of the server queue for one lock, so it has its own, after
// the commit; many commits share one, and it comes after what this process does at
// once. A lost hint costs a follower its poll interval, so failures are not tried again.
func (l *Log) runNotifier() {
	for {
		select {
		case <-l.open.Done():
			select { // or the last of a short command would be lost
			case <-l.notify:
			default:
				return
			}
		case <-l.notify:
			retry.Sleep(l.open, gather)
			select {
			case <-l.notify:
			default:
			}
		}
		ctx, cancel := context.WithTimeout(l.ctx, l.silence)
		if _, err := l.pool.Exec(ctx, "notify "+channel); err != nil {
			l.log.Debug("could not send the hint that events were appended", "error", err)
		}
		cancel()
	}
}

// follow registers a follower and returns the channel that wakes it, and what
// ends its registration. The first follower starts the listener.
func (l *Log) follow() (wake chan struct{}, leave func(), ok bool) {
	wake = make(chan struct{}, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil, false
	}
	l.followers[wake] = struct{}{}
	if !l.listening && !l.lone {
		l.listening = true
		l.owned.Go(l.runListener)
	}
	return wake, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.followers, wake)
	}, true
}

// runListener turns the hints of other processes into wake-ups, on a connection
// of its own, until the Log is closed.
func (l *Log) runListener() {
	outage := retry.New(l.log, slog.LevelDebug, "lost the connection that hears of appended events; followers poll meanwhile")
	outage.Until(l.open, func() error { return l.listen(l.open, outage) })
}

func (l *Log) listen(ctx context.Context, outage *retry.Outage) error {
	config := l.pool.Config()
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx) // nothing was written that could be lost
	}()
	if _, err := conn.Exec(ctx, "listen "+channel); err != nil {
		return err
	}
	outage.Over()
	for {
		// Also once at the start: hints were missed while nobody listened.
		l.wakeFollowers()
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return err
		}
	}
}

// ear is the connection of the pool that one follower listens on.
type ear struct{ conn *pgx.Conn }

// few says whether the server has no more connections to spare than it should keep
// for the daemon, and for commands that come and go: a quarter of them, at least 20.
const few = `select max.n - (select sum(numbackends) from pg_stat_database) < greatest(20, max.n / 4)
	from (select current_setting('max_connections')::int) max (n)`

// hear waits for a hint, at most for the time of a poll, on a connection of the pool.
// That is given back then, so that questions of the same process have their turn.
func (l *Log) hear(ctx context.Context, ear *ear) error {
	within, cancel := context.WithTimeout(ctx, l.poll)
	defer cancel()
	pooled, err := l.pool.Acquire(within)
	if err != nil {
		return err
	}
	defer pooled.Release()
	conn := pooled.Conn()
	if ear.conn != conn {
		var scarce bool
		var b pgx.Batch
		b.Queue("listen " + channel)
		b.Queue(few).QueryRow(func(row pgx.Row) error { return row.Scan(&scarce) })
		err := conn.SendBatch(within, &b).Close()
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "25006" {
			<-within.Done() // a standby has no hints
			return nil
		}
		if err != nil {
			return err
		}
		if scarce {
			if err := conn.Close(within); err != nil {
				return err
			}
			retry.Sleep(ctx, l.poll+rand.N(l.poll))
			return nil
		}
		ear.conn = conn
		return nil // hints were missed while nobody listened, so look again
	}
	_, err = conn.WaitForNotification(within)
	if err != nil && within.Err() == nil {
		return err
	}
	if err == nil {
		retry.Sleep(ctx, rand.N(apart))
	}
	cancel()
	for err == nil { // one look is for all hints so far
		_, err = conn.WaitForNotification(within)
	}
	return nil
}
