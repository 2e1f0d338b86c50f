package verify

import (
	"context"
	"fmt"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
)

// Held is a checkpoint that somebody holds.
type Held struct {
	// Name says where it is, for people.
	Name string
	checkpoint.Checkpoint
}

// tree verifies the events, their hashes and their bodies, and that the log
// contains what was signed of it.
func (o Options) tree(ctx context.Context) (Result, error) {
	options := eventlog.VerifyOptions{Progress: o.TreeProgress}
	for _, h := range o.Held {
		options.Sizes = append(options.Sizes, h.N)
	}
	v, err := o.Tree(ctx, options)
	if err != nil {
		return Result{}, err
	}
	r := Result{Tree: v.Tree, Bodies: v.Bodies, Redacted: v.Redacted, LeftOut: v.LeftOut}
	if v.LeftOut > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("bodies named up to position %d: %d were left out when this log was imported, so nothing can be said about them", v.LeftOutTo, v.LeftOut))
	}
	for _, f := range v.Faults {
		r.Breaches = append(r.Breaches, "log: "+f.String())
	}
	if v.More > 0 {
		r.Breaches = append(r.Breaches, fmt.Sprintf("log: and %d more", v.More))
	}
	for _, h := range o.Held {
		root, reached := v.Roots[h.N]
		switch {
		case !reached:
			r.Breaches = append(r.Breaches, fmt.Sprintf("checkpoint %s: it is of %d events, but the log has %d: rows at the end were removed, or it is another log", h.Name, h.N, v.Tree.N))
		case root != h.Hash:
			r.Breaches = append(r.Breaches, fmt.Sprintf("checkpoint %s: the log does not contain it: among the first %d events some were changed, removed, inserted or put in another order since it was signed", h.Name, h.N))
		default:
			r.Contained = append(r.Contained, h.Name)
		}
	}
	return r, nil
}
