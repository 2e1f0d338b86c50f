// Package queue owns the directory queue: one directory, one JSON file an entry,
// named so that the order of names is the order of arrival, and "ls" shows it.
//
// Any number of processes may put; an entry that was put is on disk. One
// consumer at a time takes entries, by a Watcher, and removes each once what it
// asked for is recorded elsewhere. A removal is not synced: after a power loss
// an entry may come back, so consumers must be idempotent.
//
// What cannot be an entry (a foreign name, a link, a pipe) or cannot be read is
// moved to the directory "quarantine" inside, with a ".reason" file beside it.
package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/ducompsoc/durhack-deployer/internal/durable"
)

// MaxEntry is the greatest size of an entry, in bytes: a body of 25 MiB in
// base64, and room around it.
const MaxEntry = 64 << 20

// dirMode is the mode of a queue directory that has to be made. An existing
// one keeps its mode, and files take their reading and writing bits from it.
const dirMode = 0o750

// publishTries is how often a name that is taken is replaced by the next one.
const publishTries = 8

var (
	// ErrGone says that an entry's file is not there any more: somebody else
	// removed it, and the consumer calls Done. It matches fs.ErrNotExist too.
	ErrGone = fmt.Errorf("the entry is gone: %w", fs.ErrNotExist)
	// ErrUnreadable says that an entry can never be read and belongs in quarantine.
	ErrUnreadable = errors.New("the entry cannot be read")
	// ErrTooLarge says that an entry exceeds MaxEntry.
	ErrTooLarge = fmt.Errorf("the entry has more than %d bytes", MaxEntry)
	// ErrReplaced says that the queue's directory was removed, or that another
	// one stands at its path now.
	ErrReplaced = errors.New("the queue's directory was removed or replaced")
	// ErrClosed says that the Watcher was closed.
	ErrClosed = errors.New("the queue's watcher is closed")
)

// Queue is one directory. It may be used by several goroutines.
type Queue struct {
	path  string
	log   *slog.Logger
	opts  options
	dir   *durable.Dir
	clock *clock

	mu       sync.Mutex
	watchers map[*Watcher]struct{}
}

type options struct {
	now          func() time.Time
	scanInterval time.Duration
	pollInterval time.Duration
	durable      []durable.Option
	hints        func(dir string) (*hints, error)
}

// Option changes how a Queue works.
type Option func(*options)

// Derived is for a queue whose entries follow from elsewhere, and are put by this
// process alone. None is synced, so that one may be cut short after a loss of power;
// and the system is not asked to watch it, which gives a user few watchers: Put tells
// of what comes, and a scan now and then of what others did.
func Derived() Option {
	return func(o *options) {
		o.durable = append(o.durable, durable.WithoutSync())
		o.hints = nil
	}
}

// Open opens a queue and makes its directory if it is missing. It removes the
// unfinished files of writers that died.
func Open(dir string, log *slog.Logger, opts ...Option) (*Queue, error) {
	o := options{now: time.Now, scanInterval: 30 * time.Second, pollInterval: time.Second, hints: inotify}
	for _, opt := range opts {
		opt(&o)
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	d, err := durable.Open(dir, o.durable...)
	if err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	q := &Queue{path: dir, log: log.With("queue", dir), opts: o, dir: d, watchers: map[*Watcher]struct{}{}}
	floor, err := q.sweep()
	if err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("open queue: %w", err)
	}
	q.clock = &clock{now: o.now, last: floor}
	return q, nil
}

// sweep removes abandoned unfinished files, and finds the greatest ULID.
func (q *Queue) sweep() (ulid.ULID, error) {
	var temps []string
	var most ulid.ULID
	err := q.dir.Scan(func(name string, _ fs.FileMode) error {
		if durable.IsTemp(name) {
			temps = append(temps, name)
		} else if e, err := ParseName(name); err == nil && e.ID.Compare(most) > 0 {
			most = e.ID
		}
		return nil
	})
	if err != nil {
		return most, err
	}
	for _, name := range temps {
		removed, err := q.dir.Sweep(name)
		switch {
		case err != nil: // litter stops nobody, and a reader may lack the right
			q.log.Debug("an unfinished file stays", "file", name, "error", err)
		case removed:
			q.log.Info("removed the unfinished file of a writer that died", "file", name)
		}
	}
	return most, nil
}

// Close frees the queue's descriptors. Its Watchers must be closed before, and
// no other call may be running.
func (q *Queue) Close() error {
	if err := q.dir.Close(); err != nil {
		return fmt.Errorf("close queue: %w", err)
	}
	return nil
}

// Replaced says whether the path no longer leads to the directory that was
// opened: see ErrReplaced. The queue's own watchers are told at once: while the
// directory is open here, the system reports no removal of it.
func (q *Queue) Replaced() (bool, error) {
	replaced, err := q.dir.Replaced()
	if replaced {
		for _, w := range q.watching() {
			w.lost()
		}
	}
	return replaced, err
}

// Dir is the queue's directory.
func (q *Queue) Dir() string { return q.path }

// Put adds an entry with the content that write produces, behind all that this
// Queue put before and all that were there when it was opened. It is on disk when Put returns nil. After an error it may be there
// (then it is whole), unless write failed or ctx ended. A delivery ID is 1 to 64
// letters, digits and hyphens.
func (q *Queue) Put(ctx context.Context, deliveryID string, write func(io.Writer) error) (Entry, error) {
	e, err := q.put(ctx, deliveryID, write)
	if err != nil {
		return Entry{}, fmt.Errorf("put into queue %s: %w", q.path, err)
	}
	return e, nil
}

func (q *Queue) put(ctx context.Context, deliveryID string, write func(io.Writer) error) (Entry, error) {
	if _, err := NewEntry(ulid.ULID{}, deliveryID); err != nil {
		return Entry{}, err
	}
	staged, err := q.stage(ctx, write)
	if err != nil {
		return Entry{}, err
	}
	defer staged.Discard()
	// The ULID is taken last, so that names become visible in their order but
	// for writers that are in this very place at once.
	var e Entry
	for try := 1; ; try++ {
		id, err := q.clock.next()
		if err != nil {
			return Entry{}, err
		}
		if e, err = NewEntry(id, deliveryID); err != nil {
			return Entry{}, err
		}
		err = staged.Publish(e.Name)
		if err == nil {
			break
		}
		// Taken only by chance; the next ID is another.
		if try == publishTries || !errors.Is(err, fs.ErrExist) {
			return Entry{}, err
		}
	}
	if err := q.dir.Sync(); err != nil {
		return Entry{}, err
	}
	q.nudge(e)
	return e, nil
}

// PutAs adds an entry under a name that the caller determines, so that doing it
// again adds nothing: created is false where the entry was there already. It is
// on disk, in both cases, when PutAs returns nil.
func (q *Queue) PutAs(ctx context.Context, id ulid.ULID, deliveryID string, write func(io.Writer) error) (created bool, err error) {
	created, err = q.putAs(ctx, id, deliveryID, write)
	if err != nil {
		return false, fmt.Errorf("put %s into queue %s: %w", id, q.path, err)
	}
	return created, nil
}

func (q *Queue) putAs(ctx context.Context, id ulid.ULID, deliveryID string, write func(io.Writer) error) (bool, error) {
	e, err := NewEntry(id, deliveryID)
	if err != nil {
		return false, err
	}
	exists, err := q.dir.Exists(e.Name)
	if err != nil {
		return false, err
	}
	if !exists {
		staged, err := q.stage(ctx, write)
		if err != nil {
			return false, err
		}
		defer staged.Discard()
		err = staged.Publish(e.Name)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return false, err
		}
		exists = err != nil
	}
	// Also where it exists: its maker may not have come to the sync.
	if err := q.dir.Sync(); err != nil {
		return false, err
	}
	q.nudge(e)
	return !exists, nil
}

func (q *Queue) stage(ctx context.Context, write func(io.Writer) error) (*durable.Staged, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	staged, err := q.dir.Stage(func(w io.Writer) error { return write(&limited{w: w, left: MaxEntry}) })
	if err != nil {
		return nil, err
	}
	if err := context.Cause(ctx); err != nil {
		staged.Discard()
		return nil, err
	}
	return staged, nil
}

// limited refuses what Read would refuse later.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.left {
		return 0, ErrTooLarge
	}
	n, err := l.w.Write(p)
	l.left -= n
	return n, err
}

// List returns the entries in order. It changes nothing, and passes over what
// is not an entry.
func (q *Queue) List() ([]Entry, error) {
	var entries []Entry
	err := q.dir.Scan(func(name string, kind fs.FileMode) error {
		if e, err := ParseName(name); err == nil && kind.IsRegular() {
			entries = append(entries, e)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list queue: %w", err)
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

// Read returns an entry's content. ErrGone: it was removed by somebody else.
// ErrUnreadable: it is no regular file, or too large, and belongs in quarantine.
// Any other error may pass.
func (q *Queue) Read(e Entry) ([]byte, error) {
	b, err := q.read(e)
	if err != nil {
		return nil, fmt.Errorf("read entry %s: %w", clip(e.Name), err)
	}
	return b, nil
}

// Open opens an entry, for whoever needs its size or its beginning. Errors are as
// for Read.
func (q *Queue) Open(e Entry) (*os.File, error) {
	f, err := q.open(e)
	if err != nil {
		return nil, fmt.Errorf("open entry %s: %w", clip(e.Name), err)
	}
	return f, nil
}

func (q *Queue) open(e Entry) (*os.File, error) {
	if _, err := ParseName(e.Name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	f, err := q.dir.OpenFile(e.Name, os.O_RDONLY)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ErrGone
	case errors.Is(err, durable.ErrNotRegular):
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return f, err
}

func (q *Queue) read(e Entry) ([]byte, error) {
	f, err := q.open(e)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened to read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > MaxEntry {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, ErrTooLarge)
	}
	// An entry never changes, so its size is what there is to read; a file that
	// grows nevertheless is cut and will not decode.
	b := make([]byte, info.Size())
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:n], nil
}

// Remove removes an entry; that it is missing is not an error.
func (q *Queue) Remove(e Entry) error {
	if _, err := ParseName(e.Name); err != nil {
		return fmt.Errorf("remove entry: %w", err)
	}
	if err := q.dir.Remove(e.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove entry: %w", err)
	}
	return nil
}

// nudge tells this process's own watchers at once.
func (q *Queue) nudge(e Entry) {
	for _, w := range q.watching() {
		w.look(e.Name)
	}
}

func (q *Queue) watching() []*Watcher {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Collect(maps.Keys(q.watchers))
}
