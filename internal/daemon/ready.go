package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/admin"
	"github.com/ducompsoc/durhack-deployer/internal/api"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// lagAllowed is how old an event may be that the read models do not hold yet,
// in seconds, before that is worth a word.
const lagAllowed = 30

// The phases of a worker.
const (
	phaseStarting = "starting"
	phaseStandby  = "standing by: another process works on this state_dir"
	phaseWaiting  = "waiting for the database"
	phaseWorking  = "working"
	phaseDraining = "draining"
)

// condition is what the parts of a worker let the admin pages know.
type condition struct {
	mu    sync.Mutex
	phase string
	// refused is why the configuration that runs is the last good one, not the present one.
	refused error
	// why says more of the phase; may be empty.
	why   string
	store *Store
	// reading is the store of pages, with its own connections.
	reading *Store
	feed    *api.Feed
	// asked are the reasons that pages were told of last.
	asked struct {
		at   time.Time
		said []string
	}
	projector *projections.Projector
	signing   signing
	recovery  *Recovery
	tallying  tallying
	// failed is what stopped a part that does not run now, by the part's name.
	failed map[string]error
	locker Locker
	// awaited is since when a deployment's worker waits for its lock.
	awaited map[string]time.Time
}

// await notes that a deployment waits for its lock, or with the zero time, that it
// does so no more.
func (c *condition) await(slug string, since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.awaited == nil {
		c.awaited = map[string]time.Time{}
	}
	delete(c.awaited, slug)
	if !since.IsZero() {
		c.awaited[slug] = since
	}
}

func (c *condition) lockWith(l Locker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.locker = l
}

// checkLocks looks why deployments wait for their lock. That a worker of another
// host has one is no trouble of ours; a lock that nobody can have is, and one
// of this host that another program holds.
func (c *condition) checkLocks(ctx context.Context, cfg *config.Config) (any, []string) {
	c.mu.Lock()
	locker, awaited := c.locker, maps.Clone(c.awaited)
	c.mu.Unlock()
	waiting, reasons := map[string]string{}, []string{}
	for _, slug := range slices.Sorted(maps.Keys(awaited)) {
		if time.Since(awaited[slug]) < lockPatience {
			continue
		}
		why, held := lockTrouble(ctx, cfg, locker, slug)
		if why+held == "" {
			continue
		}
		waiting[slug] = fmt.Sprintf("waits since %s: %s", awaited[slug].UTC().Format(time.RFC3339), why+held)
		if why != "" || cfg.Lock.URL.Reveal() == "" {
			reasons = append(reasons, slug+" "+waiting[slug])
		}
	}
	return waiting, reasons
}

// tell notes that a part has failed, or with a nil error, that it runs.
func (c *condition) tell(part string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		delete(c.failed, part)
		return
	}
	if c.failed == nil {
		c.failed = make(map[string]error)
	}
	c.failed[part] = err
}

// troubles are the parts that do not run, and why.
func (c *condition) troubles() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for _, part := range slices.Sorted(maps.Keys(c.failed)) {
		list = append(list, fmt.Sprintf("%s failed and is tried again: %v", part, c.failed[part]))
	}
	return list
}

// enter sets the phase. Draining is the last one, whatever begins meanwhile.
func (c *condition) enter(phase, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != phaseDraining {
		c.phase, c.why = phase, why
	}
}

// use sets what the checks and the pages ask; nil when it is about to be closed.
func (c *condition) use(store, reading *Store, p *projections.Projector) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.store, c.reading, c.projector = store, reading, p
}

func (c *condition) now() (phase, why string, store *Store, p *projections.Projector) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.phase, c.why, c.store, c.projector
}

// administer binds the admin address and serves it. Where nobody asked for the
// address and somebody else has it, it waits for the end in place of that.
func administer(ctx context.Context, o Options, c *condition) error {
	addr := o.Config.Admin
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, addr.Network(), addr.String())
	if err != nil {
		if !o.Config.AdminSet && errors.Is(err, syscall.EADDRINUSE) {
			o.Logger.Warn("no admin pages: the default address is in use; set [admin] port, or 0 to let the system choose", "addr", addr.String())
			<-ctx.Done()
			return nil
		}
		return fmt.Errorf("no admin pages, while deploys go on: end the program that has the address, or change [admin] host or port and restart: %w", err)
	}
	o.Logger.Info("admin pages", "addr", l.Addr().String(), "paths", "/healthz /readyz /metrics "+api.Prefix)
	if o.Administering != nil {
		o.Administering(l.Addr())
	}
	return admin.New(admin.Options{
		About:  map[string]string{"instance": o.Config.Instance, "version": o.Version},
		Checks: c.checks(o.Config), Hosts: adminHosts(o.Config), Pages: c.pages(o), Log: o.Logger,
	}).Serve(ctx, l)
}

// checks are what /readyz asks. None of them changes anything.
func (c *condition) checks(cfg *config.Config) []admin.Check {
	return []admin.Check{
		{Name: "work", Run: c.checkWork},
		{Name: "configuration", Run: c.checkConfiguration},
		{Name: "instance", Run: func(ctx context.Context) (any, []string) { return c.checkInstance(ctx, cfg) }},
		{Name: "database", Run: c.checkDatabase},
		{Name: "projections", Run: c.checkProjections},
		{Name: "signer", Run: c.signing.check},
		{Name: "locks", Run: func(ctx context.Context) (any, []string) { return c.checkLocks(ctx, cfg) }},
		{Name: "recovery", Run: c.checkRecovery},
		{Name: "queues", Run: func(context.Context) (any, []string) { return checkQueues(cfg) }},
	}
}

// checkConfiguration tells that the present configuration does not run.
func (c *condition) checkConfiguration(context.Context) (any, []string) {
	if c.refused == nil {
		return map[string]any{"refused": false}, nil
	}
	why := c.refused.Error()
	return map[string]any{"refused": true, "error": why}, []string{"the configuration was refused, and the last good one is used until the next start: " + strings.ReplaceAll(strings.TrimSpace(why), "\n", "; ")}
}

// checkInstance tells of a name that is not the kept one. It is a reason where
// another instance's orders wait for it, or where the configuration names another.
func (c *condition) checkInstance(ctx context.Context, cfg *config.Config) (any, []string) {
	detail := map[string]string{"name": cfg.Instance, "kept": cfg.KeptInstance}
	var reasons []string
	if cfg.OtherInstance != "" {
		detail["detail"] = cfg.OtherInstance
		if cfg.Instance != cfg.KeptInstance {
			reasons = append(reasons, cfg.OtherInstance)
		}
	}
	if _, _, store, _ := c.now(); store != nil {
		lines, err := Foreign(ctx, cfg, store)
		if err == nil { // else the check of the database says it
			reasons = append(reasons, lines...)
		}
	}
	return detail, reasons
}

func (c *condition) checkWork(context.Context) (any, []string) {
	phase, why, _, _ := c.now()
	detail := map[string]string{"phase": phase}
	if phase == phaseWorking {
		return detail, c.troubles()
	}
	if why != "" {
		detail["detail"] = why
		phase += ": " + why
	}
	return detail, append([]string{phase}, c.troubles()...)
}

func (c *condition) checkDatabase(ctx context.Context) (any, []string) {
	_, _, store, _ := c.now()
	if store == nil {
		return map[string]any{"reachable": false}, nil // the phase says why
	}
	reasons, err := store.obstacles(ctx)
	if err != nil {
		return map[string]any{"reachable": false, "error": err.Error()}, []string{"the database does not answer: " + err.Error()}
	}
	if since, err := store.Log.Waiting(); err != nil {
		reasons = append(reasons, fmt.Sprintf("nothing can be appended to the log since %s: %v", since.UTC().Format(time.RFC3339), err))
	}
	return map[string]any{"reachable": true, "writable": len(reasons) == 0}, reasons
}

// ProjectionState is what the admin pages say of a read model.
type ProjectionState struct {
	Name string `json:"name"`
	// Version serves reads; Wanted is this binary's.
	Version  int     `json:"version"`
	Wanted   int     `json:"wanted_version"`
	Position int64   `json:"position"`
	Head     int64   `json:"head"`
	Events   int64   `json:"lag_events"`
	Seconds  float64 `json:"lag_seconds"`
	Error    string  `json:"error,omitempty"`
}

func (c *condition) checkProjections(ctx context.Context) (any, []string) {
	_, _, _, p := c.now()
	states := []ProjectionState{}
	if p == nil {
		return states, nil
	}
	lag, err := p.Lag(ctx)
	if err != nil {
		return states, []string{err.Error()}
	}
	states = append(states, NewProjectionState(lag))
	if trouble := ProjectionTrouble(lag); trouble != "" {
		return states, []string{trouble}
	}
	return states, nil
}

// NewProjectionState is the lag as JSON has it.
func NewProjectionState(lag projections.Lag) ProjectionState {
	s := ProjectionState{
		Name: lag.Name, Version: lag.Version, Wanted: lag.Wanted,
		Position: lag.Position, Head: lag.Head, Events: lag.Events, Seconds: lag.Seconds,
	}
	if lag.Err != nil {
		s.Error = lag.Err.Error()
	}
	return s
}

// ProjectionTrouble says in one line what is wrong with a read model, or "".
func ProjectionTrouble(lag projections.Lag) string {
	switch {
	case lag.Err != nil:
		return fmt.Sprintf("projection %s stopped after position %d of %d: %v", lag.Name, lag.Position, lag.Head, lag.Err)
	case lag.Version == 0 && lag.Head > 0:
		return fmt.Sprintf("projection %s is not built yet", lag.Name)
	case lag.Version != lag.Wanted && lag.Events > 0:
		return fmt.Sprintf("projection %s: version %d is being built; version %d, which is %d events behind, is read meanwhile", lag.Name, lag.Wanted, lag.Version, lag.Events)
	case lag.Events > 0 && lag.Seconds > lagAllowed:
		return fmt.Sprintf("projection %s is %d events and %.0f s behind the log", lag.Name, lag.Events, lag.Seconds)
	}
	return ""
}

// queueState is what the admin pages say of a queue.
type queueState struct {
	Queue       string `json:"queue"`
	Waiting     int    `json:"waiting"`
	Quarantined int    `json:"quarantined"`
	Error       string `json:"error,omitempty"`
}

// checkQueues looks at the directories. What waits, or is in quarantine, is no
// reason not to be ready: new work still runs.
func checkQueues(cfg *config.Config) (any, []string) {
	states := []queueState{}
	var reasons []string
	for _, name := range append([]string{names.MainQueue}, cfg.Slugs()...) {
		state := queueState{Queue: name}
		entries, bad, err := LookAtQueue(cfg, name)
		if errors.Is(err, fs.ErrNotExist) && name != names.MainQueue {
			err = nil // that of a deployment is made when it is needed
		}
		state.Waiting, state.Quarantined = len(entries), len(bad)
		if err != nil {
			state.Error = strings.ReplaceAll(err.Error(), "\n", "; ")
			reasons = append(reasons, fmt.Sprintf("queue %s: %s", name, state.Error))
		}
		states = append(states, state)
	}
	return states, reasons
}
