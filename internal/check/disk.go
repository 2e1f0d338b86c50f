package check

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// maxNamed bounds how many edited files a line names.
const maxNamed = 10

// workingTree is what git says of a directory.
type workingTree interface {
	// Head is the commit that is checked out, or empty where there is none.
	Head(ctx context.Context) (string, error)
	// Edited lists tracked files that are not what Head has.
	Edited(ctx context.Context) ([]string, error)
}

// place is where a deployment is checked out.
type place struct {
	slug, path string
	tree       workingTree
}

// readModels are the read models, as of now.
type readModels interface {
	Deployments(ctx context.Context, instance string, also ...projections.Key) ([]projections.Deployment, error)
	Attempts(ctx context.Context, f projections.AttemptFilter) ([]projections.Attempt, error)
}

// Projections compares the read models with a fresh fold of the log, and the
// directories of the configured deployments with the read models. The daemon may run
// meanwhile. It returns the position up to which the log was folded.
func Projections(ctx context.Context, cfg *config.Config, store *daemon.Store, log *slog.Logger, progress func(done, total int64)) (checkpoint int64, found Found, err error) {
	p := projections.New(store.Pool, store.Log, log)
	audit, err := p.Audit(ctx, progress)
	if err == nil && audit.NotBuilt != nil {
		err = fmt.Errorf("verify projections: %w", audit.NotBuilt)
	}
	if err != nil {
		return 0, found, err
	}
	var places []place
	for _, slug := range cfg.Slugs() {
		d := cfg.Deployments[slug]
		places = append(places, place{slug, d.Path, daemon.Tree(cfg, d)})
	}
	disk, err := checkDisk(ctx, cfg.Instance, p, places)
	if err != nil {
		return 0, found, fmt.Errorf("compare the disk with the read models: %w", err)
	}
	for _, d := range audit.Differences {
		found.breach("projection %s", d)
	}
	for _, b := range disk.Breaches {
		found.breach("disk %s", b)
	}
	found.Notes = disk.Notes
	return audit.Checkpoint, found, nil
}

// checkDisk compares the working trees with the live commits of an instance.
func checkDisk(ctx context.Context, instance string, models readModels, places []place) (Found, error) {
	return twice(ctx, func(ctx context.Context) (Found, error) { return lookAtDisk(ctx, instance, models, places) })
}

func lookAtDisk(ctx context.Context, instance string, models readModels, places []place) (Found, error) {
	var disk Found
	list, err := models.Deployments(ctx, instance)
	if err != nil {
		return disk, err
	}
	for _, place := range places {
		i := slices.IndexFunc(list, func(d projections.Deployment) bool { return d.Slug == place.slug })
		if i < 0 || list[i].Live == nil {
			continue // what is there is not ours
		}
		if list[i].Running != nil {
			disk.note("%s: a run is in progress, so its directory is not compared", place.slug)
			continue
		}
		if err := disk.compare(ctx, models, place, list[i]); err != nil {
			return disk, err
		}
	}
	return disk, nil
}

func (f *Found) compare(ctx context.Context, models readModels, place place, d projections.Deployment) error {
	breach := func(format string, args ...any) {
		f.breach("%s: %s", place.slug, fmt.Sprintf(format, args...))
	}
	head, err := place.tree.Head(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		breach("cannot read which commit is checked out in %s: %v", place.path, err)
		return nil
	}
	live := d.Live
	switch head {
	case live.Commit:
	case "":
		breach("%s has no checkout, but commit %s is live there (delivery %s)", place.path, live.Commit, live.DeliveryID)
		return nil
	default:
		// A run that failed leaves what it had checked out.
		left, err := leftBy(ctx, models, d, head)
		if err != nil {
			return err
		}
		if left == "" {
			breach("HEAD of %s is %s, but %s is live (delivery %s)", place.path, head, live.Commit, live.DeliveryID)
		} else {
			f.note("%s: HEAD of %s is %s, where delivery %s left it, which did not go live; %s is live",
				place.slug, place.path, head, left, live.Commit)
		}
	}
	edited, err := place.tree.Edited(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		breach("cannot tell whether files were edited: %v", err)
		return nil
	}
	if len(edited) > 0 {
		names := strings.Join(edited[:min(len(edited), maxNamed)], ", ")
		if more := len(edited) - maxNamed; more > 0 {
			names += fmt.Sprintf(", and %d more", more)
		}
		breach("edited in %s since the checkout, by hand or by a step; the next deploy overwrites it: %s", place.path, names)
	}
	return nil
}

// leftBy is the delivery of a run since the live one that had the commit, or "".
func leftBy(ctx context.Context, models readModels, d projections.Deployment, commit string) (string, error) {
	attempts, err := models.Attempts(ctx, projections.AttemptFilter{
		Instance: d.Instance, Deployment: d.Slug,
		Outcomes: []projections.Outcome{projections.OutcomeFailed, projections.OutcomeInterrupted},
	})
	if err != nil {
		return "", err
	}
	for _, a := range attempts {
		if a.StartedPosition > d.Live.Position && a.Commit == commit {
			return a.DeliveryID, nil
		}
	}
	return "", nil
}
