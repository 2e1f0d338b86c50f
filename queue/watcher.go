package queue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watcher follows a queue for its one consumer. It holds the names of the
// entries and nothing of their content.
type Watcher struct {
	q     *Queue
	hints *hints        // nil where the system does not watch the directory
	every time.Duration // between two scans
	stop  context.CancelFunc
	done  chan struct{}

	mu      sync.Mutex
	pending pending
	// resting are the entries that Next passes over for a while.
	resting map[string]rest
	held    map[string]bool // passed over until Release
	// forgotten collects what was forgotten while a scan is running, whose list
	// may be older; nil while none is.
	forgotten map[string]struct{}
	grown     chan struct{} // closed when an entry is added, then replaced
	closed    bool
	replaced  bool // the path leads elsewhere now

	refused map[string]struct{} // could not be quarantined, and were logged; the scanner's own
}

// An entry that could not be dealt with rests for firstRest, and twice as long
// each time, up to lastRest.
const (
	firstRest = 250 * time.Millisecond
	lastRest  = 30 * time.Second
)

type rest struct {
	until time.Time
	pause time.Duration
}

// Watch starts to follow the queue: what is there already is pending when it
// returns. The caller closes the Watcher. Where the system has no watcher to give,
// the directory is polled.
func (q *Queue) Watch() (*Watcher, error) {
	w := &Watcher{q: q, done: make(chan struct{}), grown: make(chan struct{}), resting: map[string]rest{}, held: map[string]bool{}, refused: map[string]struct{}{}}
	w.every = q.opts.scanInterval
	if q.opts.hints != nil {
		// Told of changes before it is scanned, so that nothing falls between.
		h, err := q.opts.hints(q.path)
		if err != nil {
			w.every = q.opts.pollInterval
			q.log.Warn("the system cannot watch the queue, so it is polled", "error", err, "every", w.every)
		}
		w.hints = h
	}
	q.mu.Lock()
	q.watchers[w] = struct{}{}
	q.mu.Unlock()
	if err := w.scan(); err != nil {
		q.mu.Lock()
		delete(q.watchers, w)
		q.mu.Unlock()
		if w.hints != nil {
			err = errors.Join(err, w.hints.close())
		}
		return nil, fmt.Errorf("watch queue: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	go w.run(ctx)
	return w, nil
}

// Next waits until there is an entry and returns the smallest, at most max, in
// order. They stay pending, and are returned again, until Done or Quarantine;
// those that rest or are held are passed over meanwhile.
// ErrReplaced: the directory is not at its path any more, so that nothing will
// come; the queue must be opened again.
func (w *Watcher) Next(ctx context.Context, max int) ([]Entry, error) {
	if max < 1 {
		return nil, fmt.Errorf("next entries: at most %d is none: %w", max, fs.ErrInvalid)
	}
	for {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		w.mu.Lock()
		if err := w.ended(); err != nil {
			w.mu.Unlock()
			return nil, err
		}
		entries, wait := w.ready(max)
		grown := w.grown
		w.mu.Unlock()
		if len(entries) > 0 {
			return entries, nil
		}
		var rested <-chan time.Time
		if wait > 0 {
			rested = time.After(wait)
		}
		select {
		case <-grown:
		case <-rested:
		case <-ctx.Done():
		}
	}
}

// Err says why Next gives no more entries, for those who have one and wait; nil where it
// does.
func (w *Watcher) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended()
}

// ended is Err, and called with the lock held.
func (w *Watcher) ended() error {
	switch {
	case w.closed:
		return ErrClosed
	case w.replaced:
		return ErrReplaced
	}
	return nil
}

// ready is called with the lock held. It returns the first entries that do not
// rest, and where there are none, how long to wait for one that does.
func (w *Watcher) ready(max int) (entries []Entry, wait time.Duration) {
	pending := w.pending
	if len(w.resting)+len(w.held) == 0 {
		return parseAll(pending[:min(len(pending), max)]), 0
	}
	var names []string
	for _, name := range pending {
		if w.held[name] {
			continue
		}
		if left := time.Until(w.resting[name].until); left > 0 {
			if wait == 0 || left < wait {
				wait = left
			}
		} else if names = append(names, name); len(names) == max {
			break
		}
	}
	return parseAll(names), wait
}

// Rest keeps Next from returning the entry for the time that it returns, longer
// each time, so that one that cannot be dealt with now does not hold up the
// others. It stays pending. again says that it has rested before.
func (w *Watcher) Rest(e Entry) (pause time.Duration, again bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, again := w.resting[e.Name]
	pause = firstRest
	if again {
		pause = min(2*before.pause, lastRest)
	}
	w.resting[e.Name] = rest{until: time.Now().Add(pause), pause: pause}
	return pause, again
}

// Hold keeps Next from returning the entry until Release. It stays pending.
func (w *Watcher) Hold(e Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pending.has(e.Name) {
		w.held[e.Name] = true
	}
}

// Release ends Hold.
func (w *Watcher) Release(entries ...Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range entries {
		delete(w.held, e.Name)
	}
	w.wake()
}

// Pending returns the entries that are not done, in order.
func (w *Watcher) Pending() []Entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	return parseAll(w.pending)
}

func parseAll(names []string) []Entry {
	entries := make([]Entry, 0, len(names))
	for _, name := range names {
		if e, err := ParseName(name); err == nil { // nothing else is ever added
			entries = append(entries, e)
		}
	}
	return entries
}

// Done removes the entry's file, if it is still there, and forgets it.
func (w *Watcher) Done(e Entry) error {
	if err := w.q.Remove(e); err != nil {
		return err
	}
	w.forget(e.Name)
	return nil
}

// Quarantine moves the entry to the quarantine and forgets it.
func (w *Watcher) Quarantine(e Entry, reason error) error {
	if err := w.q.Quarantine(e, reason); err != nil {
		return err
	}
	w.forget(e.Name)
	return nil
}

// Close stops following, ends a waiting Next with ErrClosed, and returns when
// nothing of the Watcher is running.
func (w *Watcher) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		<-w.done
		return nil
	}
	w.closed = true
	close(w.grown)
	w.mu.Unlock()

	w.q.mu.Lock()
	delete(w.q.watchers, w)
	w.q.mu.Unlock()
	w.stop()
	<-w.done
	if w.hints != nil {
		if err := w.hints.close(); err != nil {
			return fmt.Errorf("stop watching %s: %w", w.q.path, err)
		}
	}
	return nil
}

// forget is called after the file has left the queue: so a look that comes
// later does not find it.
func (w *Watcher) forget(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(name)
	if w.forgotten != nil {
		w.forgotten[name] = struct{}{}
	}
}

// drop is called with the lock held.
func (w *Watcher) drop(name string) {
	w.pending.remove(name)
	delete(w.resting, name)
	delete(w.held, name)
}

// look corrects what is known of one name by what is on disk. It looks with the
// lock held, so that it cannot bring back an entry that was done meanwhile.
func (w *Watcher) look(name string) {
	if _, err := ParseName(name); err != nil {
		return // hidden, or left to the scan: it may be on its way somewhere
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	exists, err := w.q.dir.Exists(name)
	switch {
	case err != nil: // the scan will tell
	case !exists:
		w.drop(name)
	case w.pending.add(name):
		w.wake()
	}
}

// wake is called with the lock held.
func (w *Watcher) wake() {
	if !w.closed {
		close(w.grown)
		w.grown = make(chan struct{})
	}
}

func (w *Watcher) run(ctx context.Context) {
	defer close(w.done)
	var events <-chan fsnotify.Event
	var failures <-chan error
	if w.hints != nil {
		events, failures = w.hints.events, w.hints.errors
	}
	ticker := time.NewTicker(w.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-events:
			if ok {
				// Names become visible by a rename or a link, and go likewise;
				// changes of content and attributes say nothing.
				if e.Name == w.q.path {
					w.rescan() // the directory itself
					continue
				}
				if e.Has(fsnotify.Create) || e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
					w.look(filepath.Base(e.Name))
				}
				continue
			}
		case err, ok := <-failures:
			if ok {
				if !errors.Is(err, fsnotify.ErrEventOverflow) {
					w.q.log.Warn("watching the queue failed, so it is scanned", "error", err)
				}
				w.rescan()
				continue
			}
		case <-ticker.C:
			w.rescan()
			continue
		}
		// The hints ended by themselves.
		w.q.log.Warn("the system stopped watching the queue, so it is polled", "every", w.q.opts.pollInterval)
		events, failures = nil, nil
		ticker.Reset(w.q.opts.pollInterval)
	}
}

func (w *Watcher) rescan() {
	if replaced, err := w.q.dir.Replaced(); err != nil || replaced {
		if err != nil {
			w.q.log.Error("cannot look for the queue's directory", "error", err)
			return
		}
		w.lost()
		return
	}
	if err := w.scan(); err != nil {
		w.q.log.Error("cannot scan the queue", "error", err)
	}
}

// lost notes that the directory is not at its path any more.
func (w *Watcher) lost() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.replaced {
		w.q.log.Warn("the queue's directory was removed or replaced")
		w.replaced = true
		w.wake()
	}
}

// scan makes pending what the directory holds. One scan runs at a time.
func (w *Watcher) scan() error {
	w.mu.Lock()
	before := slices.Clone(w.pending)
	w.forgotten = map[string]struct{}{}
	w.mu.Unlock()

	names, foreign, err := w.list()

	w.mu.Lock()
	if err == nil {
		w.merge(names, before)
	}
	w.forgotten = nil
	w.mu.Unlock()

	for _, f := range foreign {
		if _, known := w.refused[f.name]; known {
			continue
		}
		if err := w.q.quarantine(f.name, f.reason); err != nil {
			w.refused[f.name] = struct{}{}
			w.q.log.Error("a file in the queue is not an entry, and cannot be moved", "error", err)
		}
	}
	return err
}

// merge is called with the lock held. What was pending before the scan and was
// not seen by it is gone; what was added since is not the scan's to judge.
func (w *Watcher) merge(names, before []string) {
	slices.Sort(names)
	for _, name := range before {
		if _, seen := slices.BinarySearch(names, name); seen {
			continue
		}
		// Asked again, for it may have gone and come back while the scan ran.
		if exists, err := w.q.dir.Exists(name); err == nil && !exists {
			w.drop(name)
		}
	}
	fresh := names[:0]
	for _, name := range names {
		if _, gone := w.forgotten[name]; !gone && !w.pending.has(name) {
			fresh = append(fresh, name)
		}
	}
	if w.pending.add(fresh...) {
		w.wake()
	}
}

// foreign is something in the directory that is not an entry.
type foreign struct {
	name   string
	reason error
}

func (w *Watcher) list() (names []string, others []foreign, err error) {
	err = w.q.dir.Scan(func(name string, kind fs.FileMode) error {
		if hidden(name) || name == QuarantineDir {
			return nil
		}
		_, bad := ParseName(name)
		if bad == nil && !kind.IsRegular() {
			bad = fmt.Errorf("%w: it is not a regular file (%s)", ErrUnreadable, kind.Type())
		}
		if bad != nil {
			others = append(others, foreign{name: name, reason: bad})
			return nil
		}
		names = append(names, name)
		return nil
	})
	return names, others, err
}
