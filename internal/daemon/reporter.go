package daemon

import (
	"os"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/mask"
	"github.com/ducompsoc/durhack-deployer/internal/notify"
	"github.com/ducompsoc/durhack-deployer/internal/outbox"
	"github.com/ducompsoc/durhack-deployer/internal/reporter"
)

// newReporter returns what tells GitHub of commits.
func newReporter(o Options, store *Store) *outbox.Outbox {
	targets := map[string]reporter.Target{}
	for slug, d := range o.Config.Deployments {
		targets[slug] = reporter.Target{Repository: d.Repository, URL: d.SiteURL}
	}
	r := reporter.New(reporter.Options{
		Instance: o.Config.Instance, Origin: o.Config.Origin, Targets: targets, Deployments: o.Config.GitHub.Deployments,
		Mask: mask.NewSet(hidden(o.Config)).String, GitHub: o.github, Log: store.Log, Pool: store.Pool,
	})
	return newOutbox(o, store, outbox.Options{Channel: reporter.Channel, Owe: r.Owe, Send: r.Send})
}

// channels are those that the configuration asks for.
func channels(cfg *config.Config) []string {
	list := []string{}
	if cfg.GitHub.Set() {
		list = append(list, reporter.Channel)
	}
	if len(cfg.Notify) > 0 {
		list = append(list, notify.Channel)
	}
	return list
}

// newOutbox completes the options with what all outboxes of this daemon have.
func newOutbox(o Options, store *Store, box outbox.Options) *outbox.Outbox {
	host, _ := os.Hostname() // one process at a time works on a state_dir of a host: whoever had it under this name is gone
	box.Instance, box.Holder = o.Config.Instance, host+":"+o.Config.StateDir
	box.Pool, box.Log, box.Logger = store.Pool, store.Log, o.Logger
	return outbox.New(box)
}
