package materializer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/oklog/ulid/v2"

	"github.com/ducompsoc/durhack-deployer/queue"
)

// with calls f with the queue of slug. Where the directory that it has open was
// deleted, f is called again with a new one in its place: one lost directory
// must not stop the other deployments.
func (m *Materializer) with(slug string, f func(q *queue.Queue) error) error {
	q, err := m.o.OpenQueue(slug)
	if err != nil {
		return fmt.Errorf("open the queue of %s: %w", slug, err)
	}
	if err = f(q); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	m.o.Logger.Error("the directory of a queue was deleted; it is made again, but its worker sees that only after a restart",
		"deployment", slug, "error", err)
	fresh, err := queue.Open(filepath.Join(m.o.QueuesDir, slug), m.o.Logger)
	if err != nil {
		return fmt.Errorf("open the queue of %s: %w", slug, err)
	}
	return errors.Join(f(fresh), fresh.Close())
}

func write(ctx context.Context, q *queue.Queue, e Entry) error {
	id, err := ulid.ParseStrict(e.EventID)
	if err != nil {
		return fmt.Errorf("queue entry: %q is not an event ID: %w", e.EventID, err)
	}
	content, err := e.Encode()
	if err != nil {
		return err
	}
	_, err = q.PutAs(ctx, id, e.DeliveryID, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
	if err != nil {
		return fmt.Errorf("queue %s for %s: %w", e.Name(), e.Deployment, err)
	}
	return nil
}

func (m *Materializer) markerPath(slug string) string {
	return filepath.Join(m.o.QueuesDir, slug, marker)
}

func (m *Materializer) marked(slug string) bool {
	_, err := os.Lstat(m.markerPath(slug))
	return err == nil
}

func (m *Materializer) mark(slug string) error {
	f, err := os.OpenFile(m.markerPath(slug), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o640)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mark the queue of %s as complete: %w", slug, err)
	}
	return f.Close()
}
