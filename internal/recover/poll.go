package recovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

const (
	// certain is how long a tip must have been there: until then its webhook may be on
	// the way.
	certain = time.Minute
	// tipsWithin bounds the question to a remote.
	tipsWithin = 30 * time.Second
	// maxPause bounds the pauses after a remote could not be asked.
	maxPause = time.Hour
	// remotesAtOnce are asked at a time, all of them within spread after the start.
	remotesAtOnce = 4
	spread        = 10 * time.Second
)

// Remote is a git remote and the branches of it that are followed.
type Remote struct {
	// Name may be shown.
	Name     string
	Branches []Branch
	// Tips asks it for the tips of branches, once; those that are not there are left out.
	Tips func(ctx context.Context, branches []string) (map[string]string, error)
}

// PollOptions are those of a Poll.
type PollOptions struct {
	Options
	// Every is how often each remote is asked.
	Every   time.Duration
	Remotes []Remote
	// Put puts a delivery into the main queue, under an ID that NewID makes.
	Put   func(ctx context.Context, d delivery.Delivery) error
	NewID func(time.Time) string
	Actor string
}

// Poll asks remotes, and makes deliveries of what was missed.
type Poll struct {
	o       PollOptions
	remotes []*remote
	troubles
	found atomic.Int64
}

// remote is what is remembered of one.
type remote struct {
	Remote
	// branches are what is followed, a branch once for each repository that it stands for:
	// the deployments of one are told by its pushes alone.
	branches map[followed]*branch
	// next is when it is asked again; failures counts those in a row.
	next     time.Time
	failures int
	outage   *retry.Outage
}

// followed is a branch as a repository's pushes name it.
type followed struct{ repository, branch string }

// branch is what was seen of one.
type branch struct {
	followers []Branch
	tip       string
	since     time.Time
	// settled says that the log knows the tip, or that a delivery of it was made.
	settled bool
	gone    bool
}

// NewPoll returns a poll that has seen nothing yet.
func NewPoll(o PollOptions) *Poll {
	o.defaults()
	p := &Poll{o: o}
	for _, r := range o.Remotes {
		known := &remote{
			Remote: r, branches: map[followed]*branch{}, next: o.Now().Add(rand.N(spread)),
			outage: retry.New(o.Logger.With("remote", r.Name), slog.LevelWarn, "the remote cannot be asked for pushes that did not come"),
		}
		for _, b := range r.Branches {
			key := followed{strings.ToLower(b.Repository), b.Branch}
			if known.branches[key] == nil {
				known.branches[key] = &branch{}
			}
			known.branches[key].followers = append(known.branches[key].followers, b)
		}
		p.remotes = append(p.remotes, known)
	}
	return p
}

// Found counts the deliveries that were made.
func (p *Poll) Found() int64 { return p.found.Load() }

// noBranch is no trouble of finding pushes: there are none.
const noBranch = "the remote has no such branch: nothing is deployed for it, and what is live stays"

// Troubles say which remotes cannot be asked.
func (p *Poll) Troubles() []string { return p.list() }

// Run asks the remotes when each is due, until ctx ends. An error is one of the log or the queue.
func (p *Poll) Run(ctx context.Context) error {
	for {
		next, err := p.round(ctx)
		if err != nil {
			return err
		}
		if !p.o.Sleep(ctx, max(next.Sub(p.o.Now()), time.Second)) {
			return nil
		}
	}
}

// round asks those that are due, and returns when the next one is.
func (p *Poll) round(ctx context.Context) (next time.Time, err error) {
	var asking sync.WaitGroup
	slots := make(chan struct{}, remotesAtOnce)
	errs := make([]error, len(p.remotes))
	for i, r := range p.remotes {
		if p.o.Now().Before(r.next) {
			continue
		}
		asking.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = p.look(ctx, r)
		})
	}
	asking.Wait()
	next = p.o.Now().Add(maxPause)
	for _, r := range p.remotes {
		if r.next.Before(next) {
			next = r.next
		}
	}
	return next, errors.Join(errs...)
}

// look asks one remote, and deals with what it has.
func (p *Poll) look(ctx context.Context, r *remote) error {
	tips, err := r.tips(ctx)
	now := p.o.Now()
	p.set(r.Name, err)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		pause := retry.Pause(r.failures, min(p.o.Every, maxPause), max(p.o.Every, maxPause))
		r.outage.FailedFor(err, pause)
		r.failures, r.next = r.failures+1, now.Add(pause)
		return nil
	}
	r.outage.Over()
	r.failures, r.next = 0, now.Add(jitter(p.o.Every))
	for of, b := range r.branches {
		due, err := p.decide(ctx, r, of.branch, b, tips[of.branch])
		if err != nil {
			return err
		}
		if !due.IsZero() && due.Before(r.next) {
			r.next = due
		}
	}
	return nil
}

// tips asks the remote once.
func (r *remote) tips(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, tipsWithin, fmt.Errorf("no answer within %s", tipsWithin))
	defer cancel()
	var names []string
	for of := range r.branches {
		if !slices.Contains(names, of.branch) {
			names = append(names, of.branch)
		}
	}
	return r.Tips(ctx, names)
}

// decide deals with the tip of one branch; due, where not zero, is when it wants to see
// it again.
func (p *Poll) decide(ctx context.Context, r *remote, name string, b *branch, tip string) (due time.Time, err error) {
	log := p.o.Logger.With("remote", r.Name, "branch", name)
	if tip == "" {
		if !b.gone {
			log.Warn(noBranch, "deployments", slugs(b.followers))
		}
		b.gone, b.tip = true, ""
		return due, nil
	}
	now := p.o.Now()
	if b.gone = false; b.tip != tip {
		b.tip, b.since, b.settled = tip, now, false
	}
	if b.settled {
		return due, nil
	}
	m, err := missed(ctx, p.o.Options, b.followers, tip)
	if err != nil || m == nil {
		return due, err
	}
	if due = b.since.Add(certain); now.Before(due) {
		return due, nil
	}
	d, err := m.Delivery(p.o.NewID(now), p.o.Actor, now)
	if err == nil {
		err = p.o.Put(ctx, d)
	}
	if err != nil {
		return due, fmt.Errorf("put the tip of %s in the main queue: %w", name, err)
	}
	b.settled = true
	p.found.Add(1)
	log.Info("GitHub did not deliver a push; the branch's tip was found by asking the remote", "commit", tip, "delivery", d.ID, "deployments", m.Deployments)
	return time.Time{}, nil
}

// Look asks each remote once, and returns the tips that were missed, and an error for
// each remote that could not be asked.
func (p *Poll) Look(ctx context.Context) (all []Missed, failed []error, err error) {
	for _, r := range p.remotes {
		tips, err := r.tips(ctx)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", r.Name, err))
			continue
		}
		for of, b := range r.branches {
			tip := tips[of.branch]
			if tip == "" {
				p.o.Logger.Warn(noBranch, "remote", r.Name, "branch", of.branch, "deployments", slugs(b.followers))
				continue
			}
			m, err := missed(ctx, p.o.Options, b.followers, tip)
			if err != nil {
				return nil, nil, err
			}
			if m != nil {
				all = append(all, *m)
			}
		}
	}
	return all, failed, ctx.Err()
}

func slugs(followers []Branch) []string {
	var all []string
	for _, b := range followers {
		all = append(all, b.Deployment)
	}
	return all
}

// jitter keeps daemons that were started together from asking together.
func jitter(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }
