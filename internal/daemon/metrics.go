package daemon

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/github"
	"github.com/ducompsoc/durhack-deployer/internal/metrics"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/outbox"
	"github.com/ducompsoc/durhack-deployer/internal/signer"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// tallying counts what happens while the process works; see metrics.Tally. It counts
// from zero after each start, as Prometheus expects.
type tallying struct {
	since   time.Time
	answers *metrics.Answers // of the listener in this process

	mu    sync.Mutex
	tally *metrics.Tally
}

func (f *tallying) now() *metrics.Tally {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tally
}

// run counts what comes until ctx ends.
func (f *tallying) run(ctx context.Context, cfg *config.Config, store *Store, p *projections.Projector) error {
	state, err := p.Resume(ctx, cfg.Instance)
	if err != nil {
		return err
	}
	tally := metrics.NewTally(cfg.Instance, cfg.Slugs(), state, f.since)
	f.mu.Lock()
	f.tally = tally
	f.mu.Unlock()
	return store.Log.Follow(ctx, tally.Position(), func(_ context.Context, events []eventlog.Event) error {
		for i := range events {
			if err := tally.Apply(&events[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// newMetrics answers with what the process counts and what is so on the host.
func newMetrics(o Options, c *condition) http.Handler {
	registry := metrics.Registry(prometheus.Labels{"version": o.Version, "instance_name": o.Config.Instance, "go_version": runtime.Version()})
	registry.MustRegister(
		c.tallying.answers,
		lateTally{&c.tallying},
		metrics.Look(func(show metrics.Show) { lookAtDeployments(o.Config, c.tallying.now(), show) }),
		metrics.Look(func(show metrics.Show) { lookAtQueues(o.Config, show) }),
		metrics.Look(func(show metrics.Show) { c.lookAtParts(o.Config, show) }),
		metrics.Look(func(show metrics.Show) { c.lookAtOutboxes(o.Config, show) }),
		metrics.Look(func(show metrics.Show) { lookAtGitHub(o.github, show) }),
	)
	return metrics.Handler(registry)
}

// lateTally collects from the tally once there is one.
type lateTally struct{ f *tallying }

// Describe is of prometheus.Collector.
func (lateTally) Describe(chan<- *prometheus.Desc) {}

// Collect is of prometheus.Collector.
func (l lateTally) Collect(ch chan<- prometheus.Metric) {
	if t := l.f.now(); t != nil {
		t.Collect(ch)
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// lookAtDeployments shows the state of each deployment of the configuration.
func lookAtDeployments(cfg *config.Config, tally *metrics.Tally, show metrics.Show) {
	if tally == nil {
		return
	}
	known := map[string]projections.Deployment{}
	for _, d := range tally.Deployments(answer.Keys(cfg)...) {
		known[d.Slug] = d
	}
	now := time.Now()
	for _, slug := range cfg.Slugs() {
		d := known[slug]
		show("deployment_enabled", "Whether the configuration has the deployment enabled.", flag(cfg.Deployments[slug].Enabled), "deployment", slug)
		show("deployment_failing", "Whether the newest run that has ended failed.", flag(d.Failure != nil), "deployment", slug)
		show("deployment_running", "Whether a run is in progress.", flag(d.Running != nil), "deployment", slug)
		show("deployment_waiting", "How many deliveries wait to run.", float64(d.Pending), "deployment", slug)
		show("deployment_frozen", "Whether the deployment is frozen.", flag(d.Frozen.Active(now)), "deployment", slug)
		show("deployment_pinned", "Whether the deployment is pinned.", flag(d.Pinned.Active(now)), "deployment", slug)
		if d.Live != nil {
			show("deployment_live_since_timestamp_seconds", "When what is live went live.", float64(d.Live.Since.UnixMilli())/1000, "deployment", slug)
		}
		if d.Running != nil {
			show("deployment_running_since_timestamp_seconds", "When the run in progress began.", float64(d.Running.Since.UnixMilli())/1000, "deployment", slug)
		}
	}
}

// lookAtQueues shows what is in the directories.
func lookAtQueues(cfg *config.Config, show metrics.Show) {
	for _, name := range append([]string{names.MainQueue}, cfg.Slugs()...) {
		waiting, quarantined, err := LookAtQueue(cfg, name)
		readable := err == nil || errors.Is(err, fs.ErrNotExist) // that of a deployment is made when it is needed
		show("queue_readable", "Whether all that is in the queue can be read.", flag(readable), "queue", name)
		show("queue_entries", "How many files wait in the queue.", float64(len(waiting)), "queue", name)
		show("queue_quarantined", "How many files are in its quarantine.", float64(len(quarantined)), "queue", name)
		oldest := 0.0
		if len(waiting) > 0 {
			oldest = max(0, time.Since(waiting[0].ID.Timestamp()).Seconds())
		}
		show("queue_oldest_seconds", "The age of the oldest file, 0 where there is none.", oldest, "queue", name)
	}
	refused, err := Refused(cfg)
	if err != nil {
		return
	}
	for reason, n := range refused {
		show("webhook_refused_last_hour", "Requests that the listener refused within the last hour, by its reason.", float64(n), "reason", reason)
	}
}

// lookAtParts shows how far the parts are, and which do not run.
func (c *condition) lookAtParts(cfg *config.Config, show metrics.Show) {
	ctx, cancel := context.WithTimeout(context.Background(), lookWithin)
	defer cancel()
	phase, _, _, p := c.now()
	for _, name := range []string{phaseStarting, phaseStandby, phaseWaiting, phaseWorking, phaseDraining} {
		show("phase", "1 for the phase that the process is in.", flag(name == phase), "phase", phaseWord(name))
	}
	show("configuration_refused", "Whether the last good configuration is used because the present one was refused.", flag(c.refused != nil))
	c.mu.Lock()
	failed, recovery := len(c.failed), c.recovery
	parts := make([]string, 0, failed)
	for part := range c.failed {
		parts = append(parts, part)
	}
	c.mu.Unlock()
	slices.Sort(parts)
	show("parts_failed", "How many parts of the process have failed and are tried again.", float64(failed))
	for _, part := range parts {
		show("part_failed", "1 for each part that has failed and is tried again.", 1, "part", part)
	}
	if recovery != nil {
		show("recovery_troubles", "What keeps missed pushes from being found: remotes that do not answer, deliveries that GitHub does not list.", float64(len(recovery.Troubles())))
	}
	if p != nil {
		if lag, err := p.Lag(ctx); err == nil {
			show("database_up", "Whether the database answers.", 1)
			show("log_position", "The position of the newest event.", float64(lag.Head))
			show("projection_lag_events", "How many events the read models are behind the log.", float64(lag.Events), "projection", lag.Name)
			show("projection_lag_seconds", "The age of the oldest event that they do not have.", lag.Seconds, "projection", lag.Name)
			show("projection_stopped", "Whether they have stopped with an error.", flag(lag.Err != nil), "projection", lag.Name)
		} else {
			show("database_up", "Whether the database answers.", 0)
		}
	} else {
		show("database_up", "Whether the database answers.", 0)
	}
	if s := c.signing.now(); s != nil {
		events, since := s.Behind()
		age := 0.0
		if !since.IsZero() {
			age = time.Since(since).Seconds()
		}
		show("signer_unsigned_events", "How many events are not signed.", float64(events))
		show("signer_unsigned_seconds", "For how long there have been such, 0 where all is signed.", age)
		show("signer_trouble", "Whether nobody can rely on the log being signed.", flag(s.Trouble() != ""))
	}
	if info, err := os.Stat(signer.Path(cfg.StateDir)); err == nil {
		show("signer_checkpoint_timestamp_seconds", "When a checkpoint was signed last.", float64(info.ModTime().UnixMilli())/1000)
	}
}

// lookAtOutboxes shows what is owed to the outside.
func (c *condition) lookAtOutboxes(cfg *config.Config, show metrics.Show) {
	_, _, store, _ := c.now()
	if store == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookWithin)
	defer cancel()
	backlogs, err := outbox.Backlogs(ctx, store.Pool, cfg.Instance)
	if err != nil {
		return // database_up says so
	}
	for _, b := range backlogs {
		show("outbox_behind_events", "How many events of the log were not read yet.", float64(b.Behind), "channel", b.Channel)
		for state, n := range map[string]int{"owed": b.Owed, "refused": b.Refused, "given_up": b.GivenUp} {
			show("outbox_entries", "What is to be sent, and what will not be.", float64(n), "channel", b.Channel, "state", state)
		}
		oldest := 0.0
		if b.Oldest != nil {
			oldest = max(0, time.Since(*b.Oldest).Seconds())
		}
		show("outbox_oldest_seconds", "The age of the oldest event that is still to be told of, 0 where there is none.", oldest, "channel", b.Channel)
	}
}

// lookAtGitHub shows what is left of the requests that it allows.
func lookAtGitHub(client *github.Client, show metrics.Show) {
	if client == nil {
		return
	}
	if b, known := client.Budget(); known {
		show("github_requests_limit", "How many requests GitHub allows in its period.", float64(b.Limit))
		show("github_requests_remaining", "How many of them are left.", float64(b.Remaining))
	}
}

// lookWithin bounds what the database is asked for a look.
const lookWithin = 5 * time.Second

// phaseWord is the first word or two of a phase, which names it.
func phaseWord(phase string) string {
	switch phase {
	case phaseStandby:
		return "standby"
	case phaseWaiting:
		return "waiting"
	}
	return phase
}
