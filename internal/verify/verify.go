// Package verify holds the log against its hashes and its own rules, and
// everything that is derived from it against the log: order, accounting, read
// models, queues.
package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/mirror"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// settle is how long a queue may differ from the log because the daemon is in
// the middle of a step: what still differs then is a breach.
const settle = 700 * time.Millisecond

// Options are what is held against each other.
type Options struct {
	Instance string
	// Tree recomputes the tree of the log: see eventlog.Log.Verify.
	Tree func(ctx context.Context, o eventlog.VerifyOptions) (eventlog.Verified, error)
	// Held are checkpoints that the log must contain.
	Held []Held
	// Audit folds the log: see projections.Projector.Audit.
	Audit func(ctx context.Context, progress func(done, total int64)) (projections.Audit, error)
	// Expected is what the log says each deployment's queue should hold.
	Expected func(ctx context.Context) (map[string][]mirror.Entry, error)
	// Others names the other instances that ordered something of these deliveries, by
	// the ID of the event.
	Others func(ctx context.Context, deliveryIDs []string) (map[string]string, error)
	// QueueDir is the directory of a deployment's queue, Slugs the deployments.
	QueueDir func(slug string) string
	Slugs    []string
	// Progress is of the fold, TreeProgress of what comes before it.
	Progress, TreeProgress func(done, total int64)
}

// Result is what was found.
type Result struct {
	// Events is the number of events that were folded.
	Events     int64
	Accounting projections.Accounting
	// Tree is that of the events, as they are now.
	Tree tlog.Tree
	// Bodies were compared with their digests; Redacted ones are gone, as they should
	// be, and LeftOut ones were never there, as the import recorded.
	Bodies, Redacted, LeftOut int64
	// Folded is set where the log could be folded; Accounting is of that.
	Folded bool
	// Contained are the names of the checkpoints that the log contains.
	Contained []string
	// Breaches are for people, one line each; Notes are what could not be compared.
	Breaches, Notes []string
}

// Run checks everything. The daemon may run meanwhile.
func Run(ctx context.Context, o Options) (Result, error) {
	r, err := o.tree(ctx)
	if err != nil {
		return Result{}, err
	}
	r.Events = r.Tree.N
	audit, err := o.Audit(ctx, o.Progress)
	if err != nil {
		return r.stopped(ctx, "fold", err)
	}
	r.Folded, r.Events, r.Accounting = true, audit.Head, audit.Accounting[o.Instance]
	if audit.NotBuilt != nil {
		r.Notes = append(r.Notes, fmt.Sprintf("%v: there is nothing to compare", audit.NotBuilt))
	}
	for _, instance := range slices.Sorted(maps.Keys(audit.Accounting)) {
		for _, b := range audit.Accounting[instance].Breaches {
			r.Breaches = append(r.Breaches, "log: "+b)
		}
	}
	if a := r.Accounting; a.Received != a.Voided+a.Finished+a.Pending {
		r.Breaches = append(r.Breaches, fmt.Sprintf("accounting: %d received, but %d voided + %d finished + %d pending",
			a.Received, a.Voided, a.Finished, a.Pending))
	}
	for _, d := range audit.Differences {
		r.Breaches = append(r.Breaches, "projection "+d.String())
	}
	queues, err := o.queues(ctx)
	if err != nil {
		return r.stopped(ctx, "queues", err)
	}
	r.Breaches = append(r.Breaches, queues...)
	return r, nil
}

// stopped ends a verification that cannot go on. What is no log any more need not
// fold: then what was found is what to tell, with the error among it. So it is
// where the database answers, but not with what it should.
func (r Result) stopped(ctx context.Context, what string, err error) (Result, error) {
	if ctx.Err() != nil {
		return Result{}, err
	}
	var (
		answer  *pgconn.PgError
		hole    *eventlog.HoleError
		unknown *eventlog.UnknownEventError
		ahead   *projections.AheadError
	)
	told := errors.As(err, &answer) && strings.HasPrefix(answer.Code, "42") || // no such table, no right to it
		errors.As(err, &hole) || errors.As(err, &unknown) || errors.As(err, &ahead)
	if len(r.Breaches) == 0 && !told {
		return Result{}, err
	}
	r.Breaches = append(r.Breaches, fmt.Sprintf("%s: nothing more can be checked: %v", what, err))
	return r, nil
}

// queues compares twice and reports what differs both times.
func (o Options) queues(ctx context.Context) ([]string, error) {
	first, err := o.compareQueues(ctx)
	if err != nil || len(first) == 0 {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(settle):
	}
	second, err := o.compareQueues(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(first, func(breach string) bool { return !slices.Contains(second, breach) }), nil
}

func (o Options) compareQueues(ctx context.Context) ([]string, error) {
	expected, err := o.Expected(ctx)
	if err != nil {
		return nil, err
	}
	slugs := slices.Compact(slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(expected)), o.Slugs...))))
	var breaches []string
	for _, slug := range slugs {
		entries, err := queue.List(o.QueueDir(slug))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			breaches = append(breaches, fmt.Sprintf("queue %s: it cannot be looked at: %v", slug, err))
			continue
		}
		there := make(map[string]queue.Entry, len(entries))
		for _, e := range entries {
			there[e.Name] = e
		}
		for _, e := range expected[slug] {
			name := e.Name()
			if _, ok := there[name]; ok {
				delete(there, name)
			} else {
				breaches = append(breaches, fmt.Sprintf("queue %s: %s is missing (ordered at position %d, not ended); a running daemon writes it within 30 s, and so does `durhack-deployer queue rebuild`", slug, name, e.Position))
			}
		}
		var ids []string
		for _, e := range there {
			ids = append(ids, e.DeliveryID)
		}
		others, err := o.Others(ctx, ids)
		if err != nil {
			return nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(there)) {
			if others[there[name].ID.String()] != "" {
				continue // it waits for that instance
			}
			breaches = append(breaches, fmt.Sprintf("queue %s: %s is there, but the log says that it has ended or was never ordered", slug, name))
		}
	}
	return breaches, nil
}
