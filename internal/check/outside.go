package check

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/github"
	"github.com/ducompsoc/durhack-deployer/internal/notify"
	"github.com/ducompsoc/durhack-deployer/internal/outbox"
)

// outbox tells what the outside did not take.
func (d *doctor) outbox(ctx context.Context, store *daemon.Store) {
	d.check = "outbox"
	backlogs, err := outbox.Backlogs(ctx, store.Pool, d.cfg.Instance)
	if d.failed(err, "") {
		return
	}
	troubles, err := outbox.Troubles(ctx, store.Pool, d.cfg.Instance)
	if d.failed(err, "") {
		return
	}
	for _, b := range backlogs {
		of := func(t outbox.Trouble) bool { return t.Channel == b.Channel }
		if b.Owed == 0 && !slices.ContainsFunc(troubles, of) {
			d.say(OK, "", "%s: all is told", b.Channel)
		} else if b.Owed > 0 {
			d.say(OK, "", "%s: %s to be told, the oldest of %s", b.Channel, counted(b.Owed, "thing"), b.Oldest.Format(time.RFC3339))
		}
	}
	d.troubles(troubles)
}

// notify looks at what stands and could not be told, which is not in the database.
func (d *doctor) notify(context.Context) {
	troubles, err := notify.Troubles(d.cfg.StateDir)
	if err != nil {
		d.say(Warn, "run this as the user that the daemon runs as, or remove the file: what stands is told again then", "%s", oneLine(err))
	}
	d.troubles(troubles)
}

func (d *doctor) troubles(troubles []outbox.Trouble) {
	for _, t := range troubles {
		who, last := t.Channel+": "+t.Scope, t.Last.Format(time.RFC3339)
		again := ""
		if t.Channel == notify.Channel {
			again = "`notify test " + t.Scope + "` says what comes back; "
		}
		switch t.State {
		case "refused":
			d.say(Fail, again+"once that is fixed, what was refused within a day is told within the hour, or after the next thing that is taken", "%s: refused for good, %s, last at %s: %s", who, counted(t.Count, "time"), last, t.Error)
		case "given_up":
			d.say(Warn, again+"`log` has all that was not told", "%s: given up after a day, %s, last at %s: %s", who, counted(t.Count, "time"), last, t.Error)
		default:
			d.say(Warn, again+"it is tried for a day", "%s: tried again, last at %s: %s", who, last, t.Error)
		}
	}
}

// github asks GitHub whether the credentials do for what it is to be told.
func (d *doctor) github(ctx context.Context) {
	client, err := daemon.NewGitHub(d.cfg, "doctor")
	if d.failed(err, "") || client == nil {
		return
	}
	seen := map[string]bool{}
	for _, slug := range d.cfg.Slugs() {
		one := d.cfg.Deployments[slug]
		if !one.Enabled || seen[one.Repository] {
			continue
		}
		seen[one.Repository] = true
		may := []func(context.Context, string) error{client.MayCreateStatus}
		if d.cfg.GitHub.Deployments {
			may = append(may, client.MayCreateDeployment)
		}
		taken := true
		for _, may := range may {
			err := may(ctx, one.Repository)
			if err == nil {
				continue
			}
			taken = false
			e, ok := errors.AsType[*github.Error](err)
			level, advice := Fail, "deploys go on without; the permissions are in docs/operations.md under GitHub"
			if ok && e.Temporary {
				level, advice = Warn, "deploys go on without, and what is owed is told later"
			}
			d.say(level, advice, "%s", oneLine(err))
			if !ok || e.Temporary || e.Status == http.StatusUnauthorized {
				return // so it is for all
			}
		}
		if taken {
			d.say(OK, "", "GitHub takes what is told of %s", one.Repository)
		}
	}
}
