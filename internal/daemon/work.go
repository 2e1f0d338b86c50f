package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/lock"
	recovery "github.com/ducompsoc/durhack-deployer/internal/recover"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/internal/router"
	"github.com/ducompsoc/durhack-deployer/internal/worker"
	"github.com/ducompsoc/durhack-deployer/migrations"
	"github.com/ducompsoc/durhack-deployer/projections"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// work runs everything behind the main queue until ctx ends.
func work(ctx context.Context, o Options, main *queue.Queue, state *condition) error {
	// One router to a main queue: two with different configurations could void
	// and forward the same delivery. A second process stands by.
	standby := time.AfterFunc(time.Second, func() {
		state.enter(phaseStandby, "")
		o.Logger.Info("standing by: another process works on this state_dir", "state_dir", o.Config.StateDir)
	})
	_, release, err := lock.OfProcesses(o.Config.StateDir).Acquire(ctx, workLock)
	standby.Stop()
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("lock state_dir for its one worker process: %w", err)
	}
	defer func() { _ = release() }()
	if len(o.Config.Notify) > 0 {
		var watching sync.WaitGroup
		defer watching.Wait()
		watched, stopWatching := context.WithCancel(ctx)
		defer stopWatching()
		watching.Go(func() {
			keep(watched, o.Logger, "watch", func(ctx context.Context) error { return watch(ctx, o, state) }, nil)
		})
	}
	store, err := awaitStore(ctx, o, state)
	if err != nil || store == nil {
		return err
	}
	defer store.Close()
	if events, err := Overlooked(ctx, o.Config, store, o.Logger); err != nil {
		o.Logger.Warn("cannot tell whether the private Postgres holds a log", "error", err)
	} else if events > 0 {
		o.Logger.Warn("the log of database_url is empty, but the private Postgres holds one", "events", events, "directory", PrivateCluster(o.Config))
	}
	locker, closeLocker, err := NewLocker(o.Config, o.Logger)
	if err != nil {
		return err
	}
	defer closeLocker()
	state.lockWith(locker)

	// The cluster must outlive those who write to it.
	supervised, stopSupervising := context.WithCancel(context.WithoutCancel(ctx))
	var below, parts sync.WaitGroup
	defer below.Wait()
	defer stopSupervising()
	below.Go(func() { keep(supervised, o.Logger, "postgres", store.Supervise, state.tell) })
	// Nothing is done while somebody fills the database.
	attended := make(chan struct{})
	begun := sync.OnceFunc(func() { close(attended) })
	below.Go(func() {
		keep(supervised, o.Logger, "presence", func(ctx context.Context) error { return store.attend(ctx, begun) }, state.tell)
	})
	select {
	case <-attended:
	case <-ctx.Done():
		return nil
	}

	queues := newQueueSet(o.Config, o.Logger)
	defer queues.close()
	watched, err := router.Watch(main)
	if err != nil {
		return err
	}
	defer func() { _ = watched.Close() }()
	missed := NewRecovery(o.Config, store, into(main), o.github, recovery.Actor, o.Logger)
	r := router.New(router.Options{
		Instance: o.Config.Instance, Queue: watched, Log: store.Log,
		Rules: func() []router.Rule { return router.Rules(o.Config) }, Logger: o.Logger, Asked: askedDir(o.Config).has,
	})
	m := newMirror(o.Config, store, o.Logger, queues)
	p := projections.New(store.Pool, store.Log, o.Logger)
	reading, err := store.readBy(ctx, o.Logger)
	if err != nil {
		return err
	}
	defer reading.Close()
	state.use(store, reading, p)
	defer state.use(nil, nil, nil)
	// The read models outlast the others, to apply what those append last: what
	// was stopped must not be shown as running until the next start.
	projecting, stopProjecting := context.WithCancel(context.WithoutCancel(ctx))
	var projector sync.WaitGroup
	defer projector.Wait()
	defer stopProjecting()
	projector.Go(func() { keep(projecting, o.Logger, "projections", p.Run, nil) }) // its check tells more
	projector.Go(func() {
		keep(projecting, o.Logger, "feed", func(ctx context.Context) error { return state.feed.Run(ctx, store.Log) }, state.tell)
	})
	parts.Go(func() { keep(ctx, o.Logger, "router", r.Run, state.tell) })
	parts.Go(func() { keep(ctx, o.Logger, "mirror", m.Run, state.tell) })
	state.recover(ctx, o, missed, &parts)
	parts.Go(func() {
		keep(ctx, o.Logger, "retention", func(ctx context.Context) error { return retain(ctx, o.Config, store, o.Logger) }, nil)
	})
	parts.Go(func() {
		keep(ctx, o.Logger, "signer", func(ctx context.Context) error { return state.signing.run(ctx, o, store) }, state.tell)
	})
	parts.Go(func() {
		keep(ctx, o.Logger, "metrics", func(ctx context.Context) error { return state.tallying.run(ctx, o.Config, store, p) }, state.tell)
	})
	if o.github != nil {
		parts.Go(func() { keep(ctx, o.Logger, "reporter", newReporter(o, store).Run, state.tell) })
	}
	if len(o.Config.Notify) > 0 {
		parts.Go(func() { keep(ctx, o.Logger, "notifier", newNotifier(o, store).Run, state.tell) })
	}
	tellWaiting(o.Config, o.Logger, nil) // what an earlier process left
	limits := newLimiter(o.Config, o.Logger)
	slots := worker.NewSlots(o.Config.Work.Runs(), func(slugs []string) { tellWaiting(o.Config, o.Logger, slugs) })
	for _, slug := range o.Config.Slugs() {
		parts.Go(func() {
			keep(ctx, o.Logger, "worker of "+slug, func(ctx context.Context) error {
				return runWorker(ctx, o, store, notedLocker{locker, state}, queues, m, slots, limits, o.Config.Deployments[slug])
			}, state.tell)
		})
	}
	state.enter(phaseWorking, "")
	o.Logger.Info("working", "instance", o.Config.Instance, "deployments", len(o.Config.Deployments))
	warnOfOrphans(o.Config, o.Logger)
	debug.FreeOSMemory() // as in Run, for what has begun since
	parts.Wait()
	projected(projecting, p, o.Logger)
	state.signing.last(projecting, o.Logger)
	return nil
}

// lastWithin bounds the wait for the read models, and for the signer, at the end.
const lastWithin = 3 * time.Second

// projected waits until the read models are up to date. It gives up where they
// cannot be: the next start goes on.
func projected(ctx context.Context, p *projections.Projector, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, lastWithin)
	defer cancel()
	lag, err := p.Await(ctx, lastWithin)
	if err != nil || lag.Events > 0 && lag.Err == nil {
		log.Info("the read models are left behind the log; the next start brings them up to it", "error", err)
	}
}

// awaitStore waits for the database as long as it takes: pushes are accepted
// meanwhile. It returns nil, nil when ctx ended first.
func awaitStore(ctx context.Context, o Options, state *condition) (*Store, error) {
	var store *Store
	var tooNew *migrations.TooNewError
	outage := retry.New(o.Logger, slog.LevelWarn, "waiting for the database; pushes are accepted and queued")
	outage.Until(ctx, func() (err error) {
		store, err = openWorkersStore(ctx, o.Config, o.Logger)
		if errors.As(err, &tooNew) {
			return nil
		}
		if err != nil {
			state.enter(phaseWaiting, err.Error())
		}
		return err
	})
	if tooNew != nil {
		return nil, tooNew
	}
	return store, nil
}

// workLock is held by the one worker process of a state_dir.
const workLock = "work"

// WorkerRuns says whether a worker process has the state_dir.
func WorkerRuns(cfg *config.Config) (bool, error) {
	return lock.OfProcesses(cfg.StateDir).Held(workLock)
}

// workerProcess names the process that has the state_dir, as a lock's holder is named.
func workerProcess(cfg *config.Config) string {
	name, err := lock.OfProcesses(cfg.StateDir).Holder(context.Background(), workLock)
	if err != nil {
		return ""
	}
	return name
}

// NewLocker returns the lock of the configuration: flock(2) in state_dir, or Redis
// with a [lock] url.
func NewLocker(cfg *config.Config, log *slog.Logger) (Locker, func(), error) {
	if cfg.Lock.URL.Reveal() == "" {
		return lock.OfDeployments(cfg.StateDir), func() {}, nil
	}
	lock.ClientLog(log) // else the client prints to standard error by itself
	redis, err := lock.NewRedis(cfg.Lock.URL.Reveal(), cfg.Instance, cfg.Lock.TTL, log)
	if err != nil {
		return nil, nil, fmt.Errorf("[lock] url: %w", err)
	}
	return redis, func() { _ = redis.Close() }, nil
}
