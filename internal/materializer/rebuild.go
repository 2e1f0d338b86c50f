package materializer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"slices"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// findChunk bounds the deliveries that are asked for in one query.
const findChunk = 500

// orderTypes are the events that order a run or end one.
var orderTypes = []eventlog.Type{
	eventlog.TypeForwarded, eventlog.TypeRedelivered, eventlog.TypeReplayed,
	eventlog.TypeDeployed, eventlog.TypeFailed, eventlog.TypeVoided,
}

// Rebuild makes the queues hold exactly the work that the log orders and that
// has not ended: it writes what is missing, and removes what has ended. What
// the log does not know goes to quarantine. It may run while the daemon does:
// an entry that is written back just as its work ends is dropped by the worker,
// which looks for the end before it starts anything.
func (m *Materializer) Rebuild(ctx context.Context) error {
	_, err := m.rebuild(ctx)
	for _, slug := range slices.Sorted(maps.Keys(m.broken)) {
		_, why := m.broken[slug].Now()
		err = errors.Join(err, fmt.Errorf("queue %s: %w", slug, why))
	}
	return err
}

// Expected lists, by deployment and in order, the entries that the queues
// should hold: each assignment of this instance that has not ended. Names that
// could not be a directory are listed as well.
func (m *Materializer) Expected(ctx context.Context) (map[string][]Entry, error) {
	head, err := m.o.Log.Head(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the head of the log: %w", err)
	}
	return m.expected(ctx, head)
}

// rebuild returns the position up to which the queues are complete.
func (m *Materializer) rebuild(ctx context.Context) (int64, error) {
	// Read before the head, so that a checkpoint beyond it is truly beyond.
	k, err := m.key()
	if err != nil {
		return 0, err
	}
	stored, _, err := loadCheckpoint(ctx, m.o.Pool, k)
	if err != nil {
		return 0, err
	}
	head, err := m.o.Log.Head(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the head of the log: %w", err)
	}
	expected, err := m.expected(ctx, head)
	if err != nil {
		return 0, err
	}
	slugs, err := m.slugs()
	if err != nil {
		return 0, err
	}
	for slug, entries := range expected {
		if !validSlug(slug) {
			for _, e := range entries {
				m.unqueueable(e, e.check())
			}
		} else if !slices.Contains(slugs, slug) {
			slugs = append(slugs, slug)
		}
	}
	m.pause = 0
	for _, slug := range slugs {
		if err := m.settle(ctx, slug, m.rebuildQueue(ctx, slug, expected[slug])); err != nil {
			return 0, err
		}
	}
	set := advanceCheckpoint
	if stored > head {
		set = resetCheckpoint
	}
	return head, set(ctx, m.o.Pool, k, head)
}

func (m *Materializer) rebuildQueue(ctx context.Context, slug string, entries []Entry) error {
	want := map[string]bool{}
	for _, e := range entries {
		want[e.Name()] = true
	}
	return m.with(slug, func(q *queue.Queue) error {
		for _, e := range entries {
			if err := e.check(); err != nil {
				m.unqueueable(e, err)
			} else if err := write(ctx, q, e); err != nil {
				return err
			}
		}
		if err := m.sweep(ctx, q, slug, want); err != nil {
			return fmt.Errorf("sweep the queue of %s: %w", slug, err)
		}
		return m.mark(slug)
	})
}

// sweep removes what is in the queue and not wanted.
func (m *Materializer) sweep(ctx context.Context, q *queue.Queue, slug string, want map[string]bool) error {
	files, err := q.List()
	if err != nil {
		return err
	}
	var extra []extraEntry
	for _, f := range files {
		if want[f.Name] {
			continue
		}
		e, err := readEntry(q, f, slug)
		switch {
		case errors.Is(err, queue.ErrGone):
			continue
		case errors.Is(err, errNoEntry):
			if err := q.Quarantine(f, err); err != nil {
				return err
			}
			continue
		case err != nil: // it may pass, and the worker tells of it
			m.o.Logger.Warn("an entry cannot be read for now", "deployment", slug, "entry", f.Name, "error", err)
			continue
		}
		extra = append(extra, extraEntry{f, e})
	}
	// Read after the files: what is beyond this head is in no log of ours.
	head, err := m.o.Log.Head(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errLog, err)
	}
	for chunk := range slices.Chunk(extra, findChunk) {
		if err := m.sweepChunk(ctx, q, head, chunk); err != nil {
			return err
		}
	}
	return nil
}

type extraEntry struct {
	file  queue.Entry
	entry Entry
}

func (m *Materializer) sweepChunk(ctx context.Context, q *queue.Queue, head int64, chunk []extraEntry) error {
	var ids []string
	for _, x := range chunk {
		ids = append(ids, x.entry.DeliveryID)
	}
	orders, err := m.orders(ctx, ids, head)
	if err != nil {
		return err
	}
	others, err := Others(ctx, m.o.Log, m.o.Instance, ids)
	if err != nil {
		return fmt.Errorf("%w: %w", errLog, err)
	}
	for _, x := range chunk {
		i := slices.IndexFunc(orders.entries, func(e Entry) bool { return e == x.entry })
		switch {
		case i < 0 && others[x.entry.EventID] != "":
			m.o.Logger.Error("an entry of another instance is left alone", "deployment", x.entry.Deployment,
				"delivery", x.entry.DeliveryID, "its_instance", others[x.entry.EventID], "instance", m.o.Instance)
		case i < 0:
			err = q.Quarantine(x.file, fmt.Errorf("the log, which ends at position %d, has no such assignment", head))
		case !orders.open(x.entry):
			err = q.Remove(x.file)
		default:
			// Ordered since the rebuild began, and written by the running daemon.
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// errNoEntry says that a file can never be read as an entry of its queue.
var errNoEntry = errors.New("it is no entry of this queue")

func readEntry(q *queue.Queue, f queue.Entry, slug string) (Entry, error) {
	raw, err := q.Read(f)
	if errors.Is(err, queue.ErrUnreadable) {
		return Entry{}, fmt.Errorf("%w: %w", errNoEntry, err)
	}
	if err != nil {
		return Entry{}, err
	}
	e, err := Decode(raw)
	if err != nil {
		return Entry{}, fmt.Errorf("%w: %w", errNoEntry, err)
	}
	if e.Name() != f.Name || e.Deployment != slug {
		return Entry{}, fmt.Errorf("%w: it holds the entry %s of deployment %s", errNoEntry, e.Name(), e.Deployment)
	}
	return e, nil
}

// slugs lists the configured deployments and those that have a directory.
func (m *Materializer) slugs() ([]string, error) {
	slugs := slices.DeleteFunc(slices.Clone(m.o.Slugs), func(s string) bool { return !validSlug(s) })
	directories, err := os.ReadDir(m.o.QueuesDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the queues: %w", err)
	}
	for _, d := range directories {
		if d.IsDir() && validSlug(d.Name()) && !slices.Contains(slugs, d.Name()) {
			slugs = append(slugs, d.Name())
		}
	}
	slices.Sort(slugs)
	return slugs, nil
}

// expected finds the open assignments up to head in two passes: one over the
// whole log, which keeps only which deliveries may have open work and so stays
// small, and an exact one over those.
func (m *Materializer) expected(ctx context.Context, head int64) (map[string][]Entry, error) {
	// Attempts that were ordered and have no end of their own: those that are open,
	// and those that went on as another attempt.
	open := map[run]bool{}
	for e, err := range m.o.Log.Find(ctx, eventlog.Filter{Instance: m.o.Instance, Types: orderTypes}) {
		if err != nil {
			return nil, fmt.Errorf("read what the log orders: %w", err)
		}
		if e.Position > head {
			break
		}
		if r, ends := endOf(e); ends {
			delete(open, r)
			continue
		}
		if e.Type == eventlog.TypeForwarded { // told by its columns: not worth decoding
			open[run{e.DeliveryID, e.DeploymentSlug(), e.Attempt}] = true
			continue
		}
		entries, err := entriesOf(e)
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			open[entry.run()] = true
		}
	}
	deliveries := map[string]bool{}
	for r := range open {
		deliveries[r.delivery] = true
	}
	expected := map[string][]Entry{}
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(deliveries)), findChunk) {
		orders, err := m.orders(ctx, ids, head)
		if err != nil {
			return nil, err
		}
		for _, e := range orders.entries {
			if orders.open(e) {
				expected[e.Deployment] = append(expected[e.Deployment], e)
			}
		}
	}
	for _, entries := range expected {
		slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Position, b.Position) })
	}
	return expected, nil
}

// Others names, by the ID of the event, the instances other than this one whose
// events are of these deliveries: an entry that one of them ordered is theirs.
func Others(ctx context.Context, log interface {
	Find(ctx context.Context, f eventlog.Filter) iter.Seq2[eventlog.Event, error]
}, instance string, deliveryIDs []string) (map[string]string, error) {
	others := map[string]string{}
	for e, err := range log.Find(ctx, eventlog.Filter{DeliveryIDs: deliveryIDs, Types: orderTypes}) {
		if err != nil {
			return nil, fmt.Errorf("look for events of other instances: %w", err)
		}
		if e.Instance != instance {
			others[e.ID] = e.Instance
		}
	}
	return others, nil
}

// orders is what the log says of some deliveries of an instance.
type orders struct {
	instance string
	entries  []Entry
	state    *projections.State
}

// open says that the entry's order has not ended.
func (o orders) open(e Entry) bool {
	newest, ok := o.state.Newest(o.instance, e.DeliveryID, e.Deployment, e.Position)
	return ok && newest.Open()
}

// orders reads the assignments up to head of some deliveries, and all that has
// become of them.
func (m *Materializer) orders(ctx context.Context, deliveryIDs []string, head int64) (orders, error) {
	o := orders{instance: m.o.Instance, state: projections.NewState()}
	for e, err := range m.o.Log.Find(ctx, eventlog.Filter{Instance: m.o.Instance, DeliveryIDs: deliveryIDs}) {
		if err != nil {
			return orders{}, fmt.Errorf("%w: %w", errLog, err)
		}
		if err := o.state.Apply(&e); err != nil {
			return orders{}, fmt.Errorf("%w: %w", errLog, err)
		}
		if e.Position > head {
			continue
		}
		entries, err := entriesOf(e)
		if err != nil {
			return orders{}, err
		}
		o.entries = append(o.entries, entries...)
	}
	return o, nil
}
