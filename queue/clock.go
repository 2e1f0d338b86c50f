package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/durable"
)

// clockName holds the last ULID that any process took for this queue. It is
// locked (flock) for as long as the next is taken, a few microseconds. It is not
// synced: after a power loss the names in the directory are a floor that is as
// good, because whatever was removed from there needs no order any more.
const clockName = ".clock"

// clock gives out ULIDs that rise, whatever the wall clock does and however many
// processes take them.
type clock struct {
	dir *durable.Dir
	now func() time.Time

	mu      sync.Mutex
	waiting []*ticket // in the order of their coming

	// turn is a lock that a context can give up on. It guards what follows.
	turn chan struct{}
	file *os.File
	last ulid.ULID
}

// ticket is what one caller waits for.
type ticket struct {
	id   ulid.ULID
	done chan struct{} // closed once id is set
}

func newClock(dir *durable.Dir, now func() time.Time, floor ulid.ULID) *clock {
	return &clock{dir: dir, now: now, turn: make(chan struct{}, 1), last: floor}
}

// share makes the floor known to every process: the entry that it came from may
// be gone before this one takes an ID, and another process would not know.
func (c *clock) share(ctx context.Context) error {
	return c.locked(ctx, func(last ulid.ULID, known bool) error {
		if known && last.Compare(c.last) >= 0 {
			return nil
		}
		return c.write(c.last)
	})
}

// next returns an ID greater than all that were given out before. Callers that
// come while the file is being locked share the next lock: each system call under
// it may cost the caller its processor, and with 64 callers those times add up.
func (c *clock) next(ctx context.Context) (ulid.ULID, error) {
	t := &ticket{done: make(chan struct{})}
	c.mu.Lock()
	c.waiting = append(c.waiting, t)
	c.mu.Unlock()
	select {
	case <-t.done:
		return t.id, nil
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		c.withdraw(t)
		return ulid.ULID{}, context.Cause(ctx)
	}
	select {
	case <-t.done: // served just before
		return t.id, nil
	default:
	}
	if err := c.serve(ctx); err != nil {
		// The others take their turns, and have errors of their own.
		c.withdraw(t)
		return ulid.ULID{}, err
	}
	return t.id, nil
}

// withdraw forgets a ticket. One that was served meanwhile leaves an ID unused,
// which harms nobody.
func (c *clock) withdraw(t *ticket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = slices.DeleteFunc(c.waiting, func(w *ticket) bool { return w == t })
}

// serve gives IDs to all who wait, or to nobody. The caller has the turn.
func (c *clock) serve(ctx context.Context) error {
	return c.held(ctx, func(last ulid.ULID, known bool) (err error) {
		if !known {
			if last, err = greatest(c.dir); err != nil {
				return err
			}
		}
		if last.Compare(c.last) < 0 {
			last = c.last
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		ids := make([]ulid.ULID, len(c.waiting))
		for i := range ids {
			if last, err = after(last, c.now()); err != nil {
				return err
			}
			ids[i] = last
		}
		if err := c.write(last); err != nil {
			return err
		}
		c.last = last
		for i, t := range c.waiting {
			t.id = ids[i]
			close(t.done)
		}
		c.waiting = nil
		return nil
	})
}

// locked calls fn with the ULID in the file, unless the file holds none (it is
// new, or was damaged). No other goroutine or process has the clock meanwhile.
func (c *clock) locked(ctx context.Context, fn func(last ulid.ULID, known bool) error) error {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-c.turn }()
	return c.held(ctx, fn)
}

// held is locked for a caller that has the turn.
func (c *clock) held(ctx context.Context, fn func(last ulid.ULID, known bool) error) error {
	if err := c.lock(ctx); err != nil {
		return fmt.Errorf("lock %s in %s: %w", clockName, c.dir.Path(), err)
	}
	defer c.unlock()

	var text [ulid.EncodedSize]byte
	n, err := c.file.ReadAt(text[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %s in %s: %w", clockName, c.dir.Path(), err)
	}
	last, err := ulid.ParseStrict(string(text[:n]))
	return fn(last, err == nil)
}

func (c *clock) write(id ulid.ULID) error {
	if _, err := c.file.WriteAt([]byte(id.String()+"\n"), 0); err != nil {
		return fmt.Errorf("write %s in %s: %w", clockName, c.dir.Path(), err)
	}
	return nil
}

// greatest is the greatest ULID of the directory's entries, zero if none.
func greatest(dir *durable.Dir) (ulid.ULID, error) {
	var most ulid.ULID
	err := dir.Scan(func(name string, _ fs.FileMode) error {
		if e, err := ParseName(name); err == nil && e.ID.Compare(most) > 0 {
			most = e.ID
		}
		return nil
	})
	return most, err
}

// after is a ULID of that time, or where last is not before that time, the one
// that follows last.
func after(last ulid.ULID, now time.Time) (ulid.ULID, error) {
	if ms := now.UnixMilli(); ms > 0 && uint64(ms) > last.Time() && uint64(ms) <= ulid.MaxTime() {
		var id ulid.ULID
		if err := id.SetTime(uint64(ms)); err != nil {
			return ulid.ULID{}, fmt.Errorf("make a ULID: %w", err)
		}
		// Uniqueness comes from the order, so any entropy will do.
		hi, lo := rand.Uint64(), rand.Uint64()
		for i := range 8 {
			id[6+i] = byte(hi >> (8 * i))
		}
		id[14], id[15] = byte(lo), byte(lo>>8)
		if id != lastULID {
			return id, nil
		}
	}
	id := last
	for i := len(id) - 1; i >= 0; i-- {
		id[i]++ // a carry out of the entropy goes into the time, and the order holds
		if id[i] != 0 {
			break
		}
	}
	if id == (ulid.ULID{}) || id == lastULID {
		return ulid.ULID{}, errors.New("make a ULID: there is none after the last one")
	}
	return id, nil
}

// clockPoll is how often a lock that another process holds is tried for.
const clockPoll = 200 * time.Microsecond

// lock takes the lock of the file, which it opens or makes. A file that was
// removed meanwhile would be locked by nobody else, so then it starts again.
func (c *clock) lock(ctx context.Context) error {
	for {
		if c.file == nil {
			if err := c.open(); err != nil {
				return err
			}
		}
		err := durable.Control(c.file, func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(clockPoll):
			}
			continue
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := durable.Control(c.file, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
			c.unlock()
			return err
		}
		if st.Nlink > 0 {
			return nil
		}
		c.close()
	}
}

func (c *clock) open() error {
	for {
		f, err := c.dir.OpenFile(clockName, os.O_RDWR)
		if err == nil {
			c.file = f
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		// Made like an entry, so that nobody sees it before its mode is right.
		staged, err := c.dir.Stage(func(io.Writer) error { return nil })
		if err != nil {
			return err
		}
		err = staged.Publish(clockName)
		staged.Discard()
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
}

func (c *clock) unlock() {
	_ = durable.Control(c.file, func(fd int) error { return unix.Flock(fd, unix.LOCK_UN) }) // closing frees it otherwise
}

// close is called with the turn, or when nobody can have it.
func (c *clock) close() {
	if c.file != nil {
		_ = c.file.Close() // nothing in it needs to last
		c.file = nil
	}
}
