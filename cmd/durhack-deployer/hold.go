package main

import (
	"fmt"
	"time"

	"github.com/ducompsoc/durhack-deployer/projections"
)

// holdNotes say that a deployment is frozen or pinned, by whom and why.
func holdNotes(d projections.Deployment, at time.Time) []string {
	var notes []string
	if h := d.Frozen; h.Active(at) {
		until := ""
		if !h.Until.IsZero() {
			until = " until " + clock(h.Until)
		}
		notes = append(notes, fmt.Sprintf("frozen%s since %s by %s: %s", until, clock(h.Since), h.Actor, h.Reason))
	}
	if h := d.Pinned; h.Active(at) {
		notes = append(notes, fmt.Sprintf("pinned to %s since %s by %s: %s", shortCommit(h.Commit), clock(h.Since), h.Actor, h.Reason))
	}
	return notes
}
