package eventlog

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// channel carries the hint that events were committed; its payload is empty.
const channel = "durhack_events"

// committed tells followers that there is something new: those of this process
// at once, those of others by a NOTIFY that is soon sent.
func (l *Log) committed() {
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
// the commit; many commits share one. A lost hint costs a follower its poll
// interval, so failures are not tried again.
func (l *Log) runNotifier() {
	for {
		select {
		case <-l.stop:
			return
		case <-l.notify:
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
	if !l.listening {
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
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	l.owned.Go(func() {
		select {
		case <-l.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	outage := retry.New(l.log, slog.LevelDebug, "lost the connection that hears of appended events; followers poll meanwhile")
	for ctx.Err() == nil {
		err := l.listen(ctx, outage)
		if ctx.Err() != nil {
			return
		}
		l.sleep(ctx, outage.Failed(err))
	}
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
