package worker

import (
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// newServerSite is a site with a Postgres of its own, which the test may kill.
func newServerSite(t *testing.T) (*site, *pgtest.Server) {
	t.Helper()
	server := pgtest.NewServer(t)
	pgtest.Migrate(t, server.DSN())
	return newSiteOn(t, server.DSN()), server
}

// waiting is a step that the test lets go on.
const waiting = `echo once >> $DIR/ran; while [ ! -e $DIR/go ]; do sleep 0.01; done`

// Postgres dies in mid-deploy: the result is kept, and recorded when it is back,
// once, by the worker that is there then.
func TestPostgresKilledInMidDeploy(t *testing.T) {
	t.Parallel()
	s, server := newServerSite(t)
	s.order("stays", s.push(waiting), false)
	s.order("next", s.push(waiting), false)
	stop := s.start()
	s.wait("it runs", func() bool { return s.exists("ran") })
	server.Kill(t)
	s.touch("go")
	s.wait("the result is kept", func() bool { return s.exists("runs/web/stays-1.result.json") })
	server.Start(t)
	s.drained()
	stop()
	s.expect("stays", "forwarded 1", "started 1", "deployed 1")
	s.expect("next", "forwarded 1", "started 1", "deployed 1")

	// The same, and the worker is stopped before Postgres is back.
	for _, name := range []string{"go", "ran"} {
		s.remove(name)
	}
	s.order("stopped", s.push(waiting), false)
	stop = s.start()
	s.wait("it runs", func() bool { return s.exists("ran") })
	server.Kill(t)
	s.touch("go")
	s.wait("the result is kept", func() bool { return s.exists("runs/web/stopped-1.result.json") })
	stop()
	server.Start(t)
	s.run()
	s.expect("stopped", "forwarded 1", "started 1", "deployed 1")
	s.checkRuns()
	if s.read("ran") != "once\n" {
		t.Errorf("ran: %q", s.read("ran"))
	}
}

// Postgres dies just before a start is recorded: nothing runs, and the worker
// can still be stopped.
func TestPostgresKilledBeforeAStart(t *testing.T) {
	t.Parallel()
	s, server := newServerSite(t)
	s.order("d", s.push("echo once >> $DIR/ran"), false)
	planned := make(chan struct{})
	stop := s.start(func(o *Options) {
		o.Handler = plans{o.Handler, func() { server.Kill(t); close(planned) }}
	})
	<-planned
	stop()
	if s.exists("ran") {
		t.Error("it ran unrecorded")
	}
	server.Start(t)
	s.run()
	s.checkRuns()
	s.expectOneEnd("d", eventlog.TypeDeployed)
	if s.read("ran") != "once\n" {
		t.Errorf("ran %q", s.read("ran"))
	}
}
