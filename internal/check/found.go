package check

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// Found is for people, one line each: Breaches are what the log does not account
// for, Notes what it does, or what could not be told.
type Found struct {
	Breaches, Notes []string
}

func (f *Found) breach(format string, args ...any) {
	f.Breaches = append(f.Breaches, fmt.Sprintf(format, args...))
}

func (f *Found) note(format string, args ...any) {
	f.Notes = append(f.Notes, fmt.Sprintf(format, args...))
}

// settled is how long something may differ from the log because the daemon is in the
// middle of a step: what still differs then is a breach.
const settled = 700 * time.Millisecond

// twice looks a second time where there is a breach, and keeps those that are there
// both times.
func twice(ctx context.Context, look func(context.Context) (Found, error)) (Found, error) {
	first, err := look(ctx)
	if err != nil || len(first.Breaches) == 0 {
		return first, err
	}
	if !retry.Sleep(ctx, settled) {
		return Found{}, context.Cause(ctx)
	}
	second, err := look(ctx)
	if err != nil {
		return Found{}, err
	}
	second.Breaches = slices.DeleteFunc(second.Breaches, func(b string) bool { return !slices.Contains(first.Breaches, b) })
	return second, nil
}
