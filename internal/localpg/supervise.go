package localpg

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// Supervise keeps the cluster running until ctx ends, which is not an error: it
// looks every second, and starts a server that has died or is stopping. A failure to
// start it is logged and tried again.
func (c *Cluster) Supervise(ctx context.Context) error {
	outage := retry.New(c.log.With("dir", c.dir), slog.LevelError, "cannot start the private Postgres; trying again")
	for ctx.Err() == nil {
		c.boundLog()
		wait := time.Second
		if c.serves() {
			outage.Over()
		} else if err := c.Start(ctx); errors.Is(err, errClosed) {
			return err
		} else if err != nil && ctx.Err() == nil {
			wait = outage.Failed(err)
		}
		retry.Sleep(ctx, wait)
	}
	return nil
}

// serves says whether a server is there that is not about to end.
func (c *Cluster) serves() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	pm, err := c.readPIDFile()
	return err == nil && pm.status != "stopping" && c.isPostmaster(pm.pid)
}

// boundLog keeps the log of a server that never restarts from growing forever.
func (c *Cluster) boundLog() {
	st, err := os.Lstat(c.LogPath())
	if err != nil || st.Size() <= maxLog {
		return
	}
	f, err := c.openOwned("postgres.log", os.O_WRONLY)
	if err == nil {
		_, err = boundLog(f)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		c.log.Warn("cannot bound the log of the private Postgres", "error", err)
	}
}
