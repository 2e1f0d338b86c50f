package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

var errLocked = errors.New("locked by another process")

// tryFlock takes the lock, or returns errLocked at once. The kernel releases it
// when the file is closed or the process ends; os.File is close-on-exec, so no
// server that is started inherits it.
func tryFlock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return errLocked
		default:
			return fmt.Errorf("flock %s: %w", f.Name(), err)
		}
	}
}

// flock waits for the lock. It asks again and again because a blocked flock(2)
// could not be cancelled.
func flock(ctx context.Context, f *os.File, how int) error {
	for {
		if err := tryFlock(f, how); !errors.Is(err, errLocked) {
			return err
		}
		if err := pause(ctx, pollInterval); err != nil {
			return err
		}
	}
}

// pause waits for d, or returns the cause of ctx's end.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
