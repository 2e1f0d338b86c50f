package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/projections"
)

// maxNamed bounds how many edited files a line names.
const maxNamed = 10

// Tree is a working tree as git sees it.
type Tree interface {
	// Head is the commit that is checked out, or empty where there is none.
	Head(ctx context.Context) (string, error)
	// Edited lists tracked files that are not what Head has.
	Edited(ctx context.Context) ([]string, error)
}

// Place is where a deployment is checked out.
type Place struct {
	Slug, Path string
	Tree       Tree
}

// Models are the read models, as of now.
type Models interface {
	Deployments(ctx context.Context, instance string) ([]projections.Deployment, error)
	Attempts(ctx context.Context, f projections.AttemptFilter) ([]projections.Attempt, error)
}

// Disk is what was found on the disk.
type Disk struct {
	// Breaches are what the log does not account for; Notes what it does, or what
	// could not be told. Both are for people, one line each.
	Breaches, Notes []string
}

// CheckDisk holds the working trees against the live commits of an instance. The
// daemon may run meanwhile: what it changes under way is looked at twice.
func CheckDisk(ctx context.Context, instance string, models Models, places []Place) (Disk, error) {
	first, err := lookAtDisk(ctx, instance, models, places)
	if err != nil || len(first.Breaches) == 0 {
		return first, err
	}
	select {
	case <-ctx.Done():
		return Disk{}, context.Cause(ctx)
	case <-time.After(settle):
	}
	second, err := lookAtDisk(ctx, instance, models, places)
	if err != nil {
		return Disk{}, err
	}
	second.Breaches = slices.DeleteFunc(second.Breaches, func(b string) bool { return !slices.Contains(first.Breaches, b) })
	return second, nil
}

func lookAtDisk(ctx context.Context, instance string, models Models, places []Place) (Disk, error) {
	var disk Disk
	list, err := models.Deployments(ctx, instance)
	if err != nil {
		return disk, err
	}
	for _, place := range places {
		i := slices.IndexFunc(list, func(d projections.Deployment) bool { return d.Slug == place.Slug })
		if i < 0 || list[i].Live == nil {
			continue // what is there is not ours
		}
		if list[i].Running != nil {
			disk.Notes = append(disk.Notes, fmt.Sprintf("%s: a run is in progress, so its directory is not compared", place.Slug))
			continue
		}
		if err := disk.compare(ctx, models, place, list[i]); err != nil {
			return disk, err
		}
	}
	return disk, nil
}

func (disk *Disk) compare(ctx context.Context, models Models, place Place, d projections.Deployment) error {
	breach := func(format string, args ...any) {
		disk.Breaches = append(disk.Breaches, place.Slug+": "+fmt.Sprintf(format, args...))
	}
	head, err := place.Tree.Head(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		breach("what is checked out in %s cannot be told: %v", place.Path, err)
		return nil
	}
	live := d.Live
	switch head {
	case live.Commit:
	case "":
		breach("%s has no checkout, but commit %s is live there (delivery %s)", place.Path, live.Commit, live.DeliveryID)
		return nil
	default:
		// A run that failed leaves what it had checked out.
		left, err := leftBy(ctx, models, d, head)
		if err != nil {
			return err
		}
		if left == "" {
			breach("HEAD of %s is %s, but %s is live (delivery %s)", place.Path, head, live.Commit, live.DeliveryID)
		} else {
			disk.Notes = append(disk.Notes, fmt.Sprintf("%s: HEAD of %s is %s, where delivery %s left it, which did not go live; %s is live",
				place.Slug, place.Path, head, left, live.Commit))
		}
	}
	edited, err := place.Tree.Edited(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		breach("whether files were edited cannot be told: %v", err)
		return nil
	}
	if len(edited) > 0 {
		names := strings.Join(edited[:min(len(edited), maxNamed)], ", ")
		if more := len(edited) - maxNamed; more > 0 {
			names += fmt.Sprintf(", and %d more", more)
		}
		breach("edited in %s since the checkout, by hand or by a step; the next deploy overwrites it: %s", place.Path, names)
	}
	return nil
}

// leftBy is the delivery of a run since the live one that had the commit, or "".
func leftBy(ctx context.Context, models Models, d projections.Deployment, commit string) (string, error) {
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
