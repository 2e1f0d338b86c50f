package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/act"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/github"
	"github.com/ducompsoc/durhack-deployer/internal/mask"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	recovery "github.com/ducompsoc/durhack-deployer/internal/recover"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// into puts deliveries into a queue.
func into(q *queue.Queue) func(context.Context, delivery.Delivery) error {
	return func(ctx context.Context, d delivery.Delivery) error {
		_, err := q.Put(ctx, d.ID, func(w io.Writer) error { return d.EncodeTo(w) })
		return err
	}
}

// Recovery is what finds pushes that GitHub did not deliver.
type Recovery struct {
	*recovery.Poll
	// Deliveries is nil without credentials of GitHub's.
	Deliveries *recovery.Deliveries
}

// NewRecovery returns what finds them in the name of actor; put puts into the main queue,
// and hub is nil without credentials.
func NewRecovery(cfg *config.Config, store *Store, put func(context.Context, delivery.Delivery) error, hub *github.Client, actor string, log *slog.Logger) Recovery {
	o := recovery.Options{Instance: cfg.Instance, Log: store.Log, Logger: log}
	remotes, follow := remotesOf(cfg)
	r := Recovery{Poll: recovery.NewPoll(recovery.PollOptions{
		Options: o, Every: cfg.Reconcile, Remotes: remotes, NewID: act.NewID, Actor: actor,
		Put: put,
	})}
	if hub != nil {
		r.Deliveries = recovery.NewDeliveries(recovery.DeliveriesOptions{Options: o, GitHub: hub, Deployments: follow, Note: askedDir(cfg).note})
	}
	return r
}

// remotesOf are the remotes of the deployments, each once for all that ask it as the same
// user with the same key, and the branches that they follow.
func remotesOf(cfg *config.Config) (remotes []recovery.Remote, follow []recovery.Branch) {
	type asked struct{ remote, key, user string }
	at := map[asked]int{}
	for _, slug := range cfg.Slugs() {
		d := cfg.Deployments[slug]
		b := recovery.Branch{Deployment: slug, Repository: d.Repository, Branch: d.Branch}
		follow = append(follow, b)
		how := asked{d.Remote, d.Key, d.User}
		i, known := at[how]
		if !known {
			i = len(remotes)
			at[how] = i
			remotes = append(remotes, recovery.Remote{
				Name: mask.URL(d.Remote),
				Tips: func(ctx context.Context, branches []string) (map[string]string, error) {
					return Repository(cfg, d).RemoteTips(ctx, branches...)
				},
			})
		}
		remotes[i].Branches = append(remotes[i].Branches, b)
	}
	return remotes, follow
}

// askedAgain is a directory with an empty file for each delivery that GitHub was asked for
// again, so that the router of whatever process it then comes to says so.
type askedAgain string

func askedDir(cfg *config.Config) askedAgain {
	return askedAgain(filepath.Join(cfg.StateDir, "asked"))
}

// note adds a delivery, and forgets what GitHub does not keep any more.
func (dir askedAgain) note(guid string) error {
	if !names.DeliveryID(guid) {
		return fmt.Errorf("%q is not a delivery ID", guid)
	}
	if err := makeDir(string(dir)); err != nil {
		return err
	}
	files, err := os.ReadDir(string(dir))
	if err != nil {
		return err
	}
	for _, f := range files {
		if info, err := f.Info(); err == nil && time.Since(info.ModTime()) > recovery.Kept {
			_ = os.Remove(filepath.Join(string(dir), f.Name()))
		}
	}
	return os.WriteFile(filepath.Join(string(dir), guid), nil, 0o600)
}

// has says whether GitHub was asked for a delivery, whose ID the queue has checked.
func (dir askedAgain) has(deliveryID string) bool {
	_, err := os.Lstat(filepath.Join(string(dir), deliveryID))
	return err == nil
}

// Troubles are what keeps pushes from being found; no push waits for that.
func (r Recovery) Troubles() []string {
	troubles := r.Poll.Troubles()
	if r.Deliveries != nil {
		troubles = append(troubles, r.Deliveries.Troubles()...)
	}
	return troubles
}

// RecoveryState is what the admin pages say of it.
type RecoveryState struct {
	// Found counts tips that were found at remotes, Again deliveries that GitHub was asked for again.
	Found    int64    `json:"found"`
	Again    int64    `json:"asked_again"`
	Troubles []string `json:"troubles"`
}

// recover keeps finding, in parts of the daemon, until ctx ends.
func (c *condition) recover(ctx context.Context, o Options, r Recovery, parts *sync.WaitGroup) {
	c.mu.Lock()
	c.recovery = &r
	c.mu.Unlock()
	if o.Config.Reconcile > 0 {
		parts.Go(func() { keep(ctx, o.Logger, "reconcile", r.Poll.Run, nil) })
	}
	if r.Deliveries != nil {
		parts.Go(func() { keep(ctx, o.Logger, "missed deliveries", r.Deliveries.Run, nil) })
	}
}

// checkRecovery tells of remotes and hooks that cannot be asked. It is no reason not to be ready.
func (c *condition) checkRecovery(context.Context) (any, []string) {
	c.mu.Lock()
	r := c.recovery
	c.mu.Unlock()
	state := RecoveryState{Troubles: []string{}}
	if r != nil {
		state.Found, state.Troubles = r.Found(), append(state.Troubles, r.Troubles()...)
		if r.Deliveries != nil {
			state.Again = r.Deliveries.Again()
		}
	}
	return state, nil
}
