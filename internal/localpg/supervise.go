package localpg

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// Supervise keeps the cluster running until ctx ends, which is not an error: it
// asks about every second, and starts a server that has died. A failure to
// start it is logged and tried again.
func (c *Cluster) Supervise(ctx context.Context) error {
	watch := &watch{c: c}
	defer watch.close()
	outage := retry.New(c.log.With("dir", c.dir), slog.LevelError, "cannot start the private Postgres; trying again")
	for ctx.Err() == nil {
		wait := time.Second
		if err := watch.check(ctx); err != nil && ctx.Err() == nil {
			c.log.Debug("the private Postgres does not answer", "error", err)
			err = c.Start(ctx)
			switch {
			case errors.Is(err, errClosed):
				return err
			case err == nil:
				continue
			case ctx.Err() == nil:
				wait = outage.Failed(err)
			}
		} else {
			outage.Over()
		}
		retry.Sleep(ctx, wait)
	}
	return nil
}

// watch is one session that is kept to see whether the server lives: it costs
// less than a new one each second, and ends with the server.
type watch struct {
	c    *Cluster
	conn *pgx.Conn
}

func (w *watch) check(ctx context.Context) error {
	w.boundLog()
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if w.conn == nil {
		conn, err := w.c.connect(ctx)
		if err != nil {
			return err
		}
		w.conn = conn
	}
	if err := w.conn.Ping(ctx); err != nil {
		w.close()
		return err
	}
	return nil
}

// boundLog keeps the log of a server that never restarts from growing forever.
func (w *watch) boundLog() {
	st, err := os.Lstat(w.c.LogPath())
	if err != nil || st.Size() <= maxLog {
		return
	}
	f, err := w.c.openOwned("postgres.log", os.O_WRONLY)
	if err == nil {
		_, err = boundLog(f)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		w.c.log.Warn("cannot bound the log of the private Postgres", "error", err)
	}
}

func (w *watch) close() {
	if w.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// A session that is lost already cannot be ended any better.
	_ = w.conn.Close(ctx)
	w.conn = nil
}
