package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/process"
	"github.com/ducompsoc/durhack-deployer/migrations"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// childEnv makes the test binary a worker process: see childSpec.
const childEnv = "DURHACK_WORKER_TEST_CHILD"

// childSpec is what such a process is told.
type childSpec struct {
	Place place
	// KillAt is the effect at which the process is killed, counted from 1: each
	// append and each removal of an entry is two, one before it and one after it.
	KillAt int
}

// child works the queue off and exits with 0, if it lives that long.
func child() int {
	var spec childSpec
	if err := json.Unmarshal([]byte(os.Getenv(childEnv)), &spec); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := spec.work(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (c childSpec) work() error {
	config, err := pgxpool.ParseConfig(c.Place.DSN)
	if err != nil {
		return err
	}
	config.AfterConnect = migrations.SetRole
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return err
	}
	defer pool.Close()
	log := eventlog.Open(pool, quiet)
	defer log.Close()
	q, err := queue.Open(c.Place.queueDir(), quiet)
	if err != nil {
		return err
	}
	defer q.Close()
	watch, err := q.Watch()
	if err != nil {
		return err
	}
	defer watch.Close()
	effects := 0
	effect := func() {
		if effects++; effects == c.KillAt {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	o := c.Place.options(mortalLog{log, effect}, q, mortalQueue{watch, effect})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- New(o).Run(ctx) }()
	for len(watch.Pending()) > 0 {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	return <-ended
}

type mortalLog struct {
	Log
	effect func()
}

func (l mortalLog) Append(ctx context.Context, g eventlog.Group) ([]eventlog.Event, error) {
	l.effect()
	events, err := l.Log.Append(ctx, g)
	l.effect()
	return events, err
}

type mortalQueue struct {
	Queue
	effect func()
}

func (q mortalQueue) Done(e queue.Entry) error {
	q.effect()
	err := q.Queue.Done(e)
	q.effect()
	return err
}

// inChild runs a worker process and says whether it was killed.
func (s *site) inChild(killAt int) (killed bool) {
	s.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+mustJSON(childSpec{Place: s.place, KillAt: killAt}))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err == nil {
		return false
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		s.t.Fatalf("the worker process: %v\n%s", err, &out)
	}
	return true
}

// A worker is killed at each of its effects, before it and after it. Whatever
// the moment, the next one brings each delivery to exactly one end.
func TestKilledAtEachEffect(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	kills := 0
	for killAt := 1; ; killAt++ {
		runs, fails := fmt.Sprintf("runs%d", killAt), fmt.Sprintf("fails%d", killAt)
		s.order(runs, s.push(fmt.Sprintf("echo %s $DURHACK_ATTEMPT >> $DIR/ran", runs)), false)
		s.order(fails, s.push("exit 3"), false)
		if !s.inChild(killAt) {
			break
		}
		kills++
		s.run()
		s.expectOneEnd(runs, eventlog.TypeDeployed)
		s.expectOneEnd(fails, eventlog.TypeFailed)
		if t.Failed() {
			t.Fatalf("killed at effect %d:\n%s", killAt, strings.Join(s.story(""), "\n"))
		}
	}
	// Two deliveries, each with a start, an end and a removal.
	if kills != 12 {
		t.Errorf("the worker was killed %d times, want 12", kills)
	}
	s.checkRuns()
}

// The worker is killed by the very step that it runs: what the step left running
// is gone before the next attempt begins.
func TestKilledInAStep(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.order("d", s.push(`if [ $DURHACK_ATTEMPT = 1 ]; then
	trap '' TERM
	(trap '' TERM; while :; do sleep 0.05; done) & echo $! > $DIR/child.pid
	while [ ! -e $DIR/runs/web/d-1.process ]; do sleep 0.01; done
	kill -9 $PPID
	while :; do sleep 0.05; done
fi
pid=$(cat $DIR/child.pid)
if [ -e /proc/$pid ] && ! grep -q '^State:.Z' /proc/$pid/status; then echo still there > $DIR/overlap; fi
exit 0`), false)
	if !s.inChild(0) {
		t.Fatal("the worker process survived")
	}
	s.expect("d", "forwarded 1", "started 1")
	s.run()
	s.expect("d", "forwarded 1", "started 1", "interrupted 1", "started 2", "deployed 2")
	if s.exists("overlap") {
		t.Error("the second attempt began while processes of the first were running")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(s.read("child.pid")))
	if p, there := process.ReadStat(pid); err != nil || there && p.Alive() {
		t.Errorf("process %d of the first attempt: %v", pid, err)
	}
}
