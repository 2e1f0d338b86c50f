package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// Log is what the mirror needs of the event log.
type Log interface {
	Head(ctx context.Context) (int64, error)
	Find(ctx context.Context, f eventlog.Filter) iter.Seq2[eventlog.Event, error]
	Follow(ctx context.Context, after int64, apply func(ctx context.Context, events []eventlog.Event) error) error
}

// Options configure a Mirror. All but Slugs and Logger are required.
type Options struct {
	Instance string
	// QueuesDir is the directory that holds one directory a queue.
	QueuesDir string
	// OpenQueue returns the queue of a deployment, which stands at
	// QueuesDir/slug, made if it or its directory is missing. It is called often,
	// with valid slugs only, and also for deployments that are not configured any
	// more. It keeps what it opened and closes it after Run; where it returns the
	// same *queue.Queue that the worker watches, the worker is woken at once.
	OpenQueue func(slug string) (*queue.Queue, error)
	// Slugs are the configured deployments.
	Slugs []string
	Log   Log
	// Resume reads the fold as far as the read models have it: see
	// projections.Projector.Resume.
	Resume func(ctx context.Context, instance string) (*projections.State, error)
	Logger *slog.Logger
}

// Mirror keeps the open orders of one instance in memory, and the directories of
// the deployments' queues equal to them. Create it with New.
type Mirror struct {
	o        Options
	mu       sync.Mutex // held to change state, want and folded, and by Waits
	state    *projections.State
	orders   map[string]map[string][]Entry // those that are open, by delivery and deployment
	want     map[string]map[string]Entry   // the same, by deployment and file name
	todo     turns                         // what the directories lack of that
	disk     *retry.Outage                 // of queues in which a change has failed
	queues   map[string]*queue.Queue       // as OpenQueue returned them last
	setAside map[string]bool               // names that were written again after a quarantine: once is enough
	foreign  map[string]bool               // entries of other instances that were told of
	again    *time.Timer                   // ends the following of the log, for a look at the directories
	folded   int64                         // the position up to which orders hold
	position atomic.Int64
	// every is the time between two looks at the whole directories.
	every time.Duration
}

// findChunk bounds the positions that one question to the log names.
const findChunk = 500

// New returns a Mirror that has not started.
func New(o Options) *Mirror {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Mirror{o: o, queues: map[string]*queue.Queue{}, every: 30 * time.Second,
		disk: retry.New(o.Logger, slog.LevelWarn, "a queue is not up to date; the others go on")}
}

// Position is the newest position up to which the files have been written, 0
// before Run has found out.
func (m *Mirror) Position() int64 { return m.position.Load() }

// Waits says whether the order waits for its first run, as far as is known: false
// where the log is to be asked, which is also where it was not read up to the position yet.
func (m *Mirror) Waits(e Entry, position int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == nil || m.folded < position || m.want[e.Deployment][e.Name()] != e {
		return false
	}
	newest, ok := m.state.Newest(m.o.Instance, e.DeliveryID, e.Deployment, e.Position)
	return ok && newest.Outcome == projections.OutcomeWaiting && newest.Attempt == e.Attempt
}

// Holds are the newest freeze and pin of a deployment, ended or not, as far as the log was
// followed; ok is false where it was not read yet.
func (m *Mirror) Holds(slug string) (frozen, pinned *projections.Hold, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == nil {
		return nil, nil, false
	}
	frozen, pinned = m.state.Holds(m.o.Instance, slug)
	return frozen, pinned, true
}

// Attempt is one attempt of a delivery that is still open, as far as the log was followed.
func (m *Mirror) Attempt(deliveryID, slug string, n int) (projections.Attempt, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == nil {
		return projections.Attempt{}, false
	}
	return m.state.Attempt(m.o.Instance, deliveryID, slug, n)
}

// Run follows the log until ctx ends, and then returns nil. A queue that cannot be
// written to stops no other, and is tried again with a growing pause; so are
// errors of the database. A hole in the log or an event that this binary does not
// know ends it with that error.
func (m *Mirror) Run(ctx context.Context) error {
	m.forget()
	outage := retry.New(m.o.Logger, slog.LevelWarn, "the queues do not follow the log")
	for ctx.Err() == nil {
		err := m.turn(ctx, outage)
		var hole *eventlog.HoleError
		var unknown *eventlog.UnknownEventError
		switch {
		case ctx.Err() != nil, err == nil:
		case errors.As(err, &hole), errors.As(err, &unknown), errors.Is(err, eventlog.ErrClosed):
			return fmt.Errorf("mirror the queues: %w", err)
		default:
			retry.Sleep(ctx, outage.Failed(err))
		}
	}
	return nil
}

// forget makes the next turn read what is open.
func (m *Mirror) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = nil
}

// turn looks at all directories, and follows the log until they are to be looked at
// again. It reads on while there is still something to write, so that what comes while
// one delivery is handed to many deployments does not wait for the last of them.
func (m *Mirror) turn(ctx context.Context, outage *retry.Outage) error {
	if m.state == nil {
		if err := m.load(ctx); err != nil {
			return err
		}
	}
	slugs, err := m.slugs()
	if err != nil {
		return err
	}
	outage.Over()
	m.todo.look(slugs)
	m.again = time.NewTimer(m.every)
	defer m.again.Stop()
	batches, ended := make(chan []eventlog.Event), make(chan error, 1)
	following, stop := context.WithCancel(ctx)
	after := m.folded
	go func() {
		defer close(ended)
		ended <- m.o.Log.Follow(following, after, func(ctx context.Context, events []eventlog.Event) error {
			select {
			case batches <- events:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	defer func() {
		stop()
		for range ended { // until it has
		}
	}()
	always := make(chan struct{})
	close(always)
	for ctx.Err() == nil {
		var more <-chan struct{}
		if m.todo.any() {
			more = always
		} else {
			m.position.Store(m.folded)
		}
		select {
		case events := <-batches:
			if err := m.fold(events); err != nil {
				for m.todo.any() && ctx.Err() == nil {
					m.step(ctx)
				}
				m.position.Store(m.folded)
				return err
			}
		case <-more:
			m.step(ctx)
		case err := <-ended:
			return err
		case <-m.again.C:
			return nil
		case <-ctx.Done():
		}
	}
	return nil
}

// load reads what is open: from the read models what they know, and the events
// that ordered it.
func (m *Mirror) load(ctx context.Context) (err error) {
	state, err := m.o.Resume(ctx, m.o.Instance)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	defer func() {
		if err != nil {
			m.state = nil // what was not read yet must not count as ended
		}
	}()
	m.setAside, m.foreign = map[string]bool{}, map[string]bool{}
	m.state, m.orders, m.want, m.todo = state, map[string]map[string][]Entry{}, map[string]map[string]Entry{}, turns{}
	m.folded = state.Position()
	var positions []int64
	for _, a := range state.Attempts(m.o.Instance) {
		if a.Open() && a.AssignedPosition != 0 {
			positions = append(positions, a.AssignedPosition)
		}
	}
	slices.Sort(positions)
	for chunk := range slices.Chunk(slices.Compact(positions), findChunk) {
		for e, err := range m.o.Log.Find(ctx, eventlog.Filter{Instance: m.o.Instance, Positions: chunk}) {
			if err != nil {
				return fmt.Errorf("read what the log orders: %w", err)
			}
			if _, err := m.add(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// add takes up the orders of an event that are open.
func (m *Mirror) add(e eventlog.Event) ([]Entry, error) {
	entries, err := entriesOf(e)
	if err != nil {
		return nil, err
	}
	entries = slices.DeleteFunc(entries, func(entry Entry) bool { return !m.open(entry) })
	if len(entries) > 0 && m.orders[e.DeliveryID] == nil {
		m.orders[e.DeliveryID] = map[string][]Entry{}
	}
	of := m.orders[e.DeliveryID]
	for _, entry := range entries {
		of[entry.Deployment] = append(of[entry.Deployment], entry)
		if m.want[entry.Deployment] == nil {
			m.want[entry.Deployment] = map[string]Entry{}
		}
		m.want[entry.Deployment][entry.Name()] = entry
	}
	return entries, nil
}

func (m *Mirror) open(e Entry) bool {
	newest, ok := m.state.Newest(m.o.Instance, e.DeliveryID, e.Deployment, e.Position)
	return ok && newest.Open()
}

// fold applies events to the orders, and notes which files are to follow.
func (m *Mirror) fold(events []eventlog.Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	type part struct{ delivery, deployment string } // the deployment is "" for all
	touched := map[part]bool{}
	var changed []Entry
	var failed error
	for i := range events {
		e := &events[i]
		if e.Instance == m.o.Instance {
			if failed = m.state.Apply(e); failed != nil {
				break
			}
			opened, err := m.add(*e)
			if failed = err; err != nil {
				break
			}
			changed = append(changed, opened...)
			touched[part{e.DeliveryID, e.DeploymentSlug()}] = true
		}
		m.folded = e.Position
	}
	for p := range touched {
		of := m.orders[p.delivery]
		slugs := []string{p.deployment}
		if p.deployment == "" {
			slugs = slices.Collect(maps.Keys(of))
		}
		for _, slug := range slugs {
			left := slices.DeleteFunc(of[slug], func(e Entry) bool {
				if m.open(e) {
					return false
				}
				changed = append(changed, e)
				delete(m.want[slug], e.Name())
				return true
			})
			if len(left) == 0 {
				delete(of, slug)
			} else {
				of[slug] = left
			}
		}
		if len(of) == 0 {
			delete(m.orders, p.delivery)
		}
		m.state.ForgetEnded(m.o.Instance, p.delivery)
	}
	for _, e := range changed {
		if err := e.check(); err != nil {
			m.unqueueable(e, err)
			continue
		}
		m.todo.add(e)
	}
	return failed
}

// step brings one queue up to date. Where that fails, all are looked at soon; the
// others go on.
func (m *Mirror) step(ctx context.Context) {
	slug, changed, look := m.todo.next()
	if len(changed) == 0 && !look {
		return // done with another delivery's
	}
	was := m.queues[slug]
	q, err := m.queue(slug)
	if err == nil && (look || was != nil && was != q) { // another: the directory was lost, with all that was in it
		err = m.equal(ctx, slug)
	} else if err == nil {
		err = m.update(ctx, q, changed)
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		m.todo.failed = true
		m.again.Reset(m.disk.Failed(fmt.Errorf("queue %s: %w", slug, err)))
	case look && len(m.todo.looks) == 0 && !m.todo.failed:
		m.disk.Over()
	}
}

// update makes the files of some entries what the orders say.
func (m *Mirror) update(ctx context.Context, q *queue.Queue, changed []Entry) error {
	for _, e := range changed {
		var err error
		if _, wanted := m.want[e.Deployment][e.Name()]; wanted {
			err = m.write(ctx, q, e)
		} else {
			err = q.Remove(e.file())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *Mirror) write(ctx context.Context, q *queue.Queue, e Entry) error {
	content, err := e.Encode()
	if err != nil {
		return err
	}
	_, err = q.PutAs(ctx, e.file().ID, e.DeliveryID, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
	return err
}

func (m *Mirror) queue(slug string) (*queue.Queue, error) {
	q, err := m.o.OpenQueue(slug)
	if err != nil {
		return nil, err
	}
	m.queues[slug] = q
	return q, nil
}

// unqueueable reports an assignment that no file can hold; nothing of ours makes
// one. It must not stop the others, and verify finds its file missing.
func (m *Mirror) unqueueable(e Entry, why error) {
	m.o.Logger.Error("cannot queue an order of the log", "position", e.Position, "error", why)
}

// equal makes one directory equal to the orders: what is missing is written, what
// has ended is removed, what the log has never ordered goes to quarantine.
func (m *Mirror) equal(ctx context.Context, slug string) error {
	q, err := m.queue(slug)
	if err != nil {
		return err
	}
	files, err := q.List()
	if err != nil {
		return err
	}
	there := map[string]bool{}
	var extra []Entry
	var later error // of files that cannot be read for now
	for _, f := range files {
		want, wanted := m.want[slug][f.Name]
		e, err := readEntry(q, f, slug)
		switch {
		case errors.Is(err, queue.ErrGone):
		case wanted && err == nil && e == want:
			there[f.Name] = true
		case err != nil && !errors.Is(err, errNotAnEntry):
			there[f.Name], later = true, err
		case wanted: // cut short by a loss of power, or changed by hand
			if err := q.Remove(f); err != nil {
				return err
			}
		case err != nil:
			if err := q.Quarantine(f, err); err != nil {
				return err
			}
		default:
			extra = append(extra, e)
		}
	}
	setAside, err := q.Quarantined()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(m.want[slug])) { // in their order: a worker takes the first that it sees
		e := m.want[slug][name]
		if there[name] || m.setAside[name] {
			continue
		}
		if err := e.check(); err != nil {
			m.unqueueable(e, err)
			continue
		}
		if err := m.write(ctx, q, e); err != nil {
			return err
		}
		if slices.Contains(setAside, name) {
			m.setAside[name] = true
		}
	}
	return errors.Join(later, m.dispose(ctx, q, extra))
}

// dispose deals with entries that are not open: those that have ended go, those that
// this log never ordered go to quarantine, and those of events that are yet to be
// folded stay.
func (m *Mirror) dispose(ctx context.Context, q *queue.Queue, extra []Entry) error {
	if len(extra) == 0 {
		return nil
	}
	head, err := m.o.Log.Head(ctx)
	if err != nil {
		return fmt.Errorf("read the head of the log: %w", err)
	}
	for chunk := range slices.Chunk(extra, findChunk) {
		var positions []int64
		for _, e := range chunk {
			positions = append(positions, e.Position)
		}
		ordered, others := map[Entry]bool{}, map[string]string{}
		for e, err := range m.o.Log.Find(ctx, eventlog.Filter{Positions: positions}) {
			if err != nil {
				return fmt.Errorf("read what the log orders: %w", err)
			}
			if e.Instance != m.o.Instance {
				others[e.ID] = e.Instance
				continue
			}
			entries, err := entriesOf(e)
			if err != nil {
				return err
			}
			for _, entry := range entries {
				ordered[entry] = true
			}
		}
		for _, e := range chunk {
			switch {
			case others[e.EventID] != "" && m.foreign[e.EventID]:
			case others[e.EventID] != "":
				m.foreign[e.EventID] = true
				m.o.Logger.Error("an entry of another instance is left alone", "deployment", e.Deployment,
					"delivery", e.DeliveryID, "its_instance", others[e.EventID], "instance", m.o.Instance)
			case !ordered[e]:
				err = q.Quarantine(e.file(), fmt.Errorf("the log, which ends at position %d, has no such assignment", head))
			case e.Position > m.folded:
				err = nil
			default:
				err = q.Remove(e.file())
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// errNotAnEntry says that a file will never be an entry of its queue.
var errNotAnEntry = errors.New("it is not an entry of this queue")

func readEntry(q *queue.Queue, f queue.Entry, slug string) (Entry, error) {
	raw, err := q.Read(f)
	if errors.Is(err, queue.ErrUnreadable) {
		return Entry{}, fmt.Errorf("%w: %w", errNotAnEntry, err)
	}
	if err != nil {
		return Entry{}, err
	}
	e, err := Decode(raw)
	if err != nil {
		return Entry{}, fmt.Errorf("%w: %w", errNotAnEntry, err)
	}
	if e.Name() != f.Name || e.Deployment != slug {
		return Entry{}, fmt.Errorf("%w: it holds the entry %s of deployment %s", errNotAnEntry, e.Name(), e.Deployment)
	}
	return e, nil
}

// slugs are the deployments that are configured, have a directory, or are owed
// something; the names that could be a directory.
func (m *Mirror) slugs() ([]string, error) {
	slugs := slices.Concat(m.o.Slugs, slices.Collect(maps.Keys(m.want)))
	directories, err := os.ReadDir(m.o.QueuesDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the queues: %w", err)
	}
	for _, d := range directories {
		if d.IsDir() {
			slugs = append(slugs, d.Name())
		}
	}
	slugs = slices.DeleteFunc(slugs, func(s string) bool { return !names.Slug(s) })
	slices.Sort(slugs)
	return slices.Compact(slugs), nil
}

// catchUp loads what is open and folds the log up to its end, without a file
// being touched.
func (m *Mirror) catchUp(ctx context.Context) error {
	if err := m.load(ctx); err != nil {
		return err
	}
	for e, err := range m.o.Log.Find(ctx, eventlog.Filter{Instance: m.o.Instance, After: m.folded}) {
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		if err := m.fold([]eventlog.Event{e}); err != nil {
			return err
		}
	}
	return nil
}

// Rebuild makes the directories equal to the log as it is now, once. Run does so
// by itself; a daemon may be running.
func (m *Mirror) Rebuild(ctx context.Context) error {
	if err := m.catchUp(ctx); err != nil {
		return err
	}
	slugs, err := m.slugs()
	if err != nil {
		return err
	}
	var failed []error
	for _, slug := range slugs {
		if err := m.equal(ctx, slug); err != nil {
			failed = append(failed, fmt.Errorf("queue %s: %w", slug, err))
		}
	}
	return errors.Join(failed...)
}

// Expected lists, by deployment and in order, the entries that the queues should
// hold now: each assignment of this instance that has not ended. Names that could
// not be a directory are listed as well.
func (m *Mirror) Expected(ctx context.Context) (map[string][]Entry, error) {
	if err := m.catchUp(ctx); err != nil {
		return nil, err
	}
	expected := map[string][]Entry{}
	for slug, entries := range m.want {
		if len(entries) > 0 {
			expected[slug] = slices.SortedFunc(maps.Values(entries), func(a, b Entry) int { return cmp.Compare(a.Position, b.Position) })
		}
	}
	return expected, nil
}

// Others names, by the ID of the event, the instances other than this one whose
// events are of these deliveries: an entry that one of them ordered is theirs.
func Others(ctx context.Context, log interface {
	Find(ctx context.Context, f eventlog.Filter) iter.Seq2[eventlog.Event, error]
}, instance string, deliveryIDs []string) (map[string]string, error) {
	others := map[string]string{}
	for e, err := range log.Find(ctx, eventlog.Filter{DeliveryIDs: deliveryIDs}) {
		if err != nil {
			return nil, fmt.Errorf("look for events of other instances: %w", err)
		}
		if e.Instance != instance {
			others[e.ID] = e.Instance
		}
	}
	return others, nil
}
