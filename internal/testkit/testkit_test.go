package testkit

import (
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// Tests run in parallel, and most of them start processes.
func TestProgram_RunsWhileOthersFork(t *testing.T) {
	t.Parallel()
	var done atomic.Bool
	var others sync.WaitGroup
	defer others.Wait()
	defer done.Store(true)
	for range 4 {
		others.Go(func() {
			for !done.Load() {
				_ = exec.Command("/bin/true").Run()
			}
		})
	}
	path := filepath.Join(t.TempDir(), "program")
	for range 200 {
		Program(t, path, "#!/bin/sh\n")
		if err := exec.Command(path).Run(); err != nil {
			t.Fatal(err)
		}
	}
}
