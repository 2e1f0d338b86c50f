package worker

import (
	"context"
	"io"
	"maps"
	"sync"

	"github.com/ducompsoc/durhack-deployer/internal/mirror"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// backlog is what waits in the queue, from the order that is decided on, in order.
// However many wait, their files are read once and git is asked of all together.
type backlog struct {
	w       *Worker
	load    func() // called before what stands behind the first is looked at
	entries []queue.Entry
	orders  []mirror.Entry
	kin     map[string]*kin // of a commit
}

// kin is how the commits of what waits lie to one of them.
type kin struct {
	before, after, unknown map[string]bool
	ask                    func() error // git, of those that the pushes do not tell of
}

func (w *Worker) backlog(e queue.Entry, job mirror.Entry) *backlog {
	a := &backlog{w: w, entries: []queue.Entry{e}, orders: []mirror.Entry{job}, kin: map[string]*kin{}}
	a.load = sync.OnceFunc(func() {
		for _, behind := range w.o.Queue.Pending() {
			if behind.Name <= e.Name {
				continue
			}
			raw, err := w.o.Files.Read(behind)
			if err != nil {
				continue // gone or unreadable: it will be dealt with in its turn
			}
			if order, err := mirror.Decode(raw); err == nil && order.Deployment == job.Deployment && order.Name() == behind.Name {
				a.entries, a.orders = append(a.entries, behind), append(a.orders, order)
			}
		}
	})
	return a
}

// newer finds the newest order that takes the place of the one at i. One
// whose commit is an ancestor of that one's does not: then the deliveries came out
// of order, and dropping it would leave the older commit live. Nor does one
// that cannot be compared.
func (a *backlog) newer(ctx context.Context, i int, out io.Writer) *mirror.Entry {
	a.load()
	job := a.orders[i]
	defer delete(a.kin, job.Commit) // those of the newest alone are asked for again
	for j := len(a.orders) - 1; j > i; j-- {
		newer := &a.orders[j]
		if newer.Restores {
			continue // what was live before is no answer to a push
		}
		if newer.Commit == job.Commit || newer.Forced {
			return newer // it will run, wherever it lies
		}
		older, err := a.isAncestor(ctx, *newer, job, out)
		if err != nil {
			a.w.o.Logger.Warn("not superseded: the commits cannot be compared", "delivery", job.DeliveryID, "newer", newer.DeliveryID, "error", err)
			return nil
		}
		if !older {
			return newer
		}
	}
	return nil
}

// isAncestor says whether newer's commit is an ancestor of job's. It is seen from the
// newest of all, so that all the others are compared with that at once; and from job
// where that one does not take its place.
func (a *backlog) isAncestor(ctx context.Context, newer, job mirror.Entry, out io.Writer) (bool, error) {
	from, other := newer, job.Commit
	if newer != a.orders[len(a.orders)-1] {
		from, other = job, newer.Commit
	}
	k := a.kin[from.Commit]
	if k == nil {
		k = a.chained(from.Commit)
		k.ask = sync.OnceValue(func() error { return a.compare(ctx, from, k, out) })
		a.kin[from.Commit] = k
	}
	if !k.before[other] && !k.after[other] {
		if err := k.ask(); err != nil {
			return false, err
		}
	}
	switch {
	case k.unknown[other]:
		return a.w.isAncestor(ctx, newer, job, out)
	case from == newer:
		return k.after[other], nil
	default:
		return k.before[other], nil
	}
}

// chained is what the pushes themselves say: each names the commit that it was made on top of.
func (a *backlog) chained(commit string) *kin {
	parents, children := map[string][]string{}, map[string][]string{}
	for _, o := range a.orders {
		if o.Before != "" {
			parents[o.Commit] = append(parents[o.Commit], o.Before)
			children[o.Before] = append(children[o.Before], o.Commit)
		}
	}
	return &kin{before: reach(commit, parents), after: reach(commit, children)}
}

func reach(from string, next map[string][]string) map[string]bool {
	found := map[string]bool{}
	for todo := []string{from}; len(todo) > 0; {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, commit := range next[at] {
			if !found[commit] {
				found[commit] = true
				todo = append(todo, commit)
			}
		}
	}
	return found
}

// compare asks git of the orders that k does not tell of.
func (a *backlog) compare(ctx context.Context, from mirror.Entry, k *kin, out io.Writer) error {
	var others []string
	for _, o := range a.orders {
		if o.Commit != from.Commit && !k.before[o.Commit] && !k.after[o.Commit] {
			others = append(others, o.Commit)
		}
	}
	if err := a.w.o.Repository.FetchHistory(ctx, from.Branch, from.Commit, out); err != nil {
		return err
	}
	before, after, unknown, err := a.w.o.Repository.Kin(ctx, from.Commit, others)
	maps.Copy(k.before, before)
	maps.Copy(k.after, after)
	k.unknown = unknown
	return err
}
