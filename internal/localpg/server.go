package localpg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/process"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// ensure returns when the cluster answers. It adopts a server that runs, waits
// for one that starts or ends, and starts one where there is none. The start
// lock is held.
func (c *Cluster) ensure(ctx context.Context) error {
	hurried := 0
	// Fetching programs and making the cluster are bounded by ctx and not by
	// startTimeout, so waiting begins after them.
	for waiting := time.Now(); ; {
		err := c.ping(ctx)
		if err == nil {
			c.launched = 0
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the server to answer: %w", context.Cause(ctx))
		}
		if refused := new(pgconn.PgError); errors.As(err, &refused) && refused.Code != cannotConnectNow {
			return fmt.Errorf("connect: %w", err)
		}
		if time.Since(waiting) > startTimeout {
			return fmt.Errorf("the server did not answer within %v (see %s): %w", startTimeout, c.LogPath(), err)
		}
		pm, err := c.readPIDFile()
		if err != nil {
			return err
		}
		switch {
		case c.launched != 0 && !c.ended(c.launched):
			// It has not written postmaster.pid yet, or is recovering.
		case !c.isPostmaster(pm.pid):
			again, err := c.launch(ctx, pm)
			if err != nil {
				return err
			}
			if !again {
				waiting = time.Now()
			}
		case pm.status == "stopping" && hurried != pm.pid:
			// Perhaps asked to wait for its sessions to end (a SIGTERM to every
			// process of a service), which nobody may ever do.
			c.log.Info("hurrying a stopping Postgres", "pid", pm.pid)
			hurried = pm.pid
			if err := signalProcess(pm.pid, unix.SIGINT); err != nil {
				return err
			}
		}
		if !retry.Sleep(ctx, pollInterval) {
			return fmt.Errorf("wait for the server to answer: %w", context.Cause(ctx))
		}
	}
}

// cannotConnectNow is the SQLSTATE of a server that starts up or shuts down.
const cannotConnectNow = "57P03"

// ping asks for a session and ends it. A server that is full also answers.
func (c *Cluster) ping(ctx context.Context) error {
	conn, err := c.connect(ctx)
	if err != nil {
		if full := new(pgconn.PgError); errors.As(err, &full) && full.Code == "53300" {
			return nil
		}
		return err
	}
	return conn.Close(ctx)
}

// launch starts the server, making the cluster first if there is none. If the
// server that this Cluster started before has died, it starts another (again)
// only if the cause passes by itself.
func (c *Cluster) launch(ctx context.Context, old postmaster) (again bool, err error) {
	if c.launched != 0 {
		c.launched, again = 0, true
		said := c.logSince(c.logFrom)
		if !passing(said) {
			return again, fmt.Errorf("the server ended while starting: %s", said)
		}
		c.log.Info("the previous Postgres is not quite gone; trying again")
		if !retry.Sleep(ctx, 10*pollInterval) {
			return again, context.Cause(ctx)
		}
	}
	major, err := c.clusterMajor()
	if err != nil {
		return again, err
	}
	p, err := c.findPrograms(ctx, major)
	if err != nil {
		return again, err
	}
	if major == 0 {
		if err := c.initialize(ctx, p); err != nil {
			return again, err
		}
	}
	if err := c.writeAccess(); err != nil {
		return again, err
	}
	if err := c.clearStale(ctx, old); err != nil {
		return again, err
	}
	return again, c.run(p)
}

// passing tells failures to start that end when the last processes of a killed
// server have noticed its death.
func passing(said string) bool {
	return strings.Contains(said, "pre-existing shared memory block") ||
		strings.Contains(said, "lock file") && strings.Contains(said, "already exists")
}

// clearStale removes what a dead server left and Postgres would take for a
// living one's: its process ID may belong to another program by now (in a
// container, after a restart, it usually does), or to a zombie. That no backend of it
// lives Postgres checks again by the shared memory of the data directory.
func (c *Cluster) clearStale(ctx context.Context, old postmaster) error {
	if old.damaged {
		// It would take a server that is starting by other hands a moment to write.
		if !retry.Sleep(ctx, 10*pollInterval) {
			return context.Cause(ctx)
		}
		var err error
		if old, err = c.readPIDFile(); err != nil {
			return err
		}
	}
	if old.damaged || old.pid != 0 && !c.isPostmaster(old.pid) && unix.Kill(old.pid, 0) != unix.ESRCH {
		c.log.Warn("removing a stale postmaster.pid", "dir", c.dir, "pid", old.pid)
		if err := os.Remove(filepath.Join(c.dir, "data", "postmaster.pid")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	err := os.Remove(filepath.Join(c.sock, socketName+".lock"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// maxLog bounds postgres.log, bytes.
const maxLog = 16 << 20

// run starts the postgres program.
func (c *Cluster) run(p programs) error {
	// A cleaner of /tmp, or an operator, may have removed it since Open.
	if _, err := c.socketDir(); err != nil {
		return err
	}
	logFile, err := c.openOwned("postgres.log", os.O_WRONLY|os.O_APPEND)
	if err != nil {
		return err
	}
	defer logFile.Close()
	if c.logFrom, err = boundLog(logFile); err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()

	program := filepath.Join(p.dir, "postgres")
	argv := append([]string{program}, c.settings()...)
	attr := &os.ProcAttr{
		Dir: c.dir, Env: c.environ(), Files: []*os.File{null, logFile, logFile},
		// Its own session: Ctrl-C in the terminal is the daemon's to handle.
		Sys: &syscall.SysProcAttr{Setsid: true, Credential: c.owner.credential()},
	}
	start := os.StartProcess
	if c.cfg.DieWithParent {
		attr.Sys.Pdeathsig = syscall.SIGINT
		start = c.startMortal
	}
	proc, err := start(program, argv, attr)
	if err != nil {
		return fmt.Errorf("start %s: %w", program, c.explainRun(p, err, ""))
	}
	c.launched = proc.Pid
	c.children[proc.Pid] = true
	c.log.Info("started a private Postgres", "dir", c.dir, "pid", proc.Pid, "user", c.owner.name, "version", p.major)
	// It may outlive this process, so nothing waits for it; isPostmaster reaps it.
	return proc.Release()
}

// startMortal starts a process that is to die with this one. The kernel's parent death
// signal is really that of the parent's thread, which is therefore kept until Close.
func (c *Cluster) startMortal(name string, argv []string, attr *os.ProcAttr) (proc *os.Process, err error) {
	started := make(chan struct{})
	c.mortal.Go(func() {
		runtime.LockOSThread()
		// Unlocked at the end, the thread goes back to the runtime and lives on.
		defer runtime.UnlockOSThread()
		proc, err = os.StartProcess(name, argv, attr)
		close(started)
		<-c.ending
	})
	<-started
	return proc, err
}

// settings are given as arguments, so that postgresql.conf stays the operator's.
func (c *Cluster) settings() []string {
	args := []string{"-D", filepath.Join(c.dir, "data"), "-p", port}
	set := func(name, value string) { args = append(args, "-c", name+"="+value) }
	set("listen_addresses", "")
	set("unix_socket_directories", c.sock)
	set("unix_socket_permissions", "0700")
	set("log_destination", "stderr")
	set("logging_collector", "off")
	set("log_checkpoints", "off")
	set("log_timezone", "UTC")
	set("timezone", "UTC")
	if !c.cfg.Durable {
		set("fsync", "off")
		set("full_page_writes", "off")
		set("dynamic_shared_memory_type", "mmap") // in the directory, which is removed also after a kill
		set("max_connections", "200")             // many tests' pools at once
	}
	return args
}

// boundLog empties a log that has grown too large, and returns its size.
func boundLog(f *os.File) (size int64, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if st.Size() <= maxLog {
		return st.Size(), nil
	}
	return 0, f.Truncate(0)
}

// logSince returns the end of what the server has printed since offset.
func (c *Cluster) logSince(offset int64) string {
	f, err := c.openOwned("postgres.log", os.O_RDONLY)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const tail = 4 << 10
	if st, err := f.Stat(); err == nil {
		offset = max(offset, st.Size()-tail)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, offset, tail))
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(b))
}

// stop asks for a fast shutdown and waits for the server's end. The start lock is held.
func (c *Cluster) stop(ctx context.Context) error {
	pm, err := c.readPIDFile()
	if err != nil {
		return err
	}
	pid := pm.pid
	if !c.isPostmaster(pid) {
		// One that was just launched has perhaps not written the file yet.
		if pid = c.launched; pid == 0 || c.ended(pid) {
			return nil
		}
	}
	server, there := process.ReadStat(pid)
	runs := func() bool {
		now, ok := process.ReadStat(pid)
		return there && ok && now.Alive() && now.Start == server.Start
	}
	if err := signalProcess(pid, unix.SIGINT); err != nil {
		return err
	}
	// Its file, and then its working directory, by which isPostmaster knows it,
	// go a moment before the process does.
	for runs() || c.children[pid] && !c.ended(pid) {
		if !retry.Sleep(ctx, pollInterval) {
			return fmt.Errorf("wait for Postgres (process %d) to stop: %w", pid, context.Cause(ctx))
		}
	}
	c.log.Info("stopped the private Postgres", "dir", c.dir, "pid", pid)
	return nil
}
