package handlers

import (
	"context"
	"errors"
)

// ErrHandedOver is the error of a step that leaves the end of its run to the next
// process, which is about to take the place of this one. It is a plan's last step.
var ErrHandedOver = errors.New("the next process tells how it ended")

// Resumer tells in the next process how a run ended that was handed over to it.
type Resumer interface {
	// Resume says whether the run was handed over, and waits until its end is known: a
	// nil error is a success. Where ctx ends first, the process after this one tells.
	// canceled is an error once somebody has canceled the run.
	Resume(ctx context.Context, deliveryID string, attempt int, canceled func() error) (handedOver bool, err error)
	// Settle is called when every end is recorded, again and again.
	Settle()
}
