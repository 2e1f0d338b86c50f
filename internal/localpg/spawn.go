package localpg

import (
	"os"
	"runtime"
)

// spawner starts processes that are to die with this one. The kernel's parent
// death signal is really that of the parent's thread, so all are
// started from one thread, which a goroutine keeps until close.
type spawner struct {
	requests chan func()
	done     chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{requests: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread()
		// Unlocked at the end, the thread goes back to the runtime and lives on.
		defer runtime.UnlockOSThread()
		for f := range s.requests {
			f()
		}
	}()
	return s
}

func (s *spawner) start(name string, argv []string, attr *os.ProcAttr) (proc *os.Process, err error) {
	done := make(chan struct{})
	s.requests <- func() {
		defer close(done)
		proc, err = os.StartProcess(name, argv, attr)
	}
	<-done
	return proc, err
}

func (s *spawner) close() {
	close(s.requests)
	<-s.done
}
