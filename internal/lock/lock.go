// Package lock owns the mutual exclusion of deploys: one holder of a name at a
// time, across the processes of a host (Flock) or of several hosts (Redis).
//
// A lock is a way to wait, not a proof: a holder may lose it and not know it yet.
// What makes results safe is the fence of the event log. So both kinds tell their
// holder of a loss by cancelling a context.
package lock

import (
	"errors"
	"fmt"

	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// ErrLost is the cause with which a held context is cancelled when the lock is no
// longer this holder's, and what release returns then.
var ErrLost = errors.New("the lock was lost")

// checkName refuses what cannot be part of a file name and of a key.
func checkName(name string) error {
	if !names.Plain(name) {
		return fmt.Errorf("%q cannot name a lock: a name is %s", name, names.PlainRule)
	}
	return nil
}
