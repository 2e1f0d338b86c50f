package localpg

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Before the start lock can be had its file must be made, and before that the
// directories: all of it is done by any number of processes at once, and the
// socket's directory is removed meanwhile by others that were the last to use it.
func TestOpen_ManyMakeAndRemoveTheDirectoriesAtOnce(t *testing.T) {
	parent, err := os.MkdirTemp("", "localpg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(parent) })
	if err := os.Chmod(parent, 0o711); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		// A blank makes it a path that no socket can have.
		dir := filepath.Join(parent, "a cluster")
		start := make(chan struct{})
		var starters sync.WaitGroup
		for range 4 {
			starters.Go(func() {
				<-start
				c := &Cluster{dir: dir}
				for round := range 3 {
					var lock *os.File
					err := c.prepare(t.Context())
					if err == nil {
						lock, err = c.openOwned("start.lock", os.O_RDWR)
					}
					if err != nil {
						t.Errorf("round %d: %v", round, err)
						return
					}
					if err := errors.Join(c.removeSocketDir(), lock.Close()); err != nil {
						t.Errorf("round %d: %v", round, err)
					}
				}
			})
		}
		close(start)
		starters.Wait()
		if t.Failed() {
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}
