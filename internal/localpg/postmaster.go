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
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

// ensure returns when the cluster answers. It adopts a server that runs, waits
// for one that starts or ends, and starts one where there is none. The start
// lock is held.
func (c *Cluster) ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout,
		fmt.Errorf("it did not answer within %v; see %s", startTimeout, c.LogPath()))
	defer cancel()
	hurried := 0
	for {
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
		pm, err := c.readPIDFile()
		if err != nil {
			return err
		}
		switch {
		case c.launched != 0 && !c.ended(c.launched):
			// It has not written postmaster.pid yet, or is recovering.
		case !c.isPostmaster(pm.pid):
			if err := c.launchOnce(ctx, pm); err != nil {
				return err
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
		if err := pause(ctx, pollInterval); err != nil {
			return fmt.Errorf("wait for the server to answer: %w", err)
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

// launchOnce starts the server, unless it did so before and that server died:
// then it tries again only if the cause passes by itself.
func (c *Cluster) launchOnce(ctx context.Context, old postmaster) error {
	if c.launched != 0 {
		c.launched = 0
		said := c.logSince(c.logFrom)
		if !passing(said) {
			return fmt.Errorf("the server ended while starting: %s", said)
		}
		c.log.Info("the previous Postgres is not quite gone; trying again")
		if err := pause(ctx, 10*pollInterval); err != nil {
			return err
		}
	}
	major, err := c.clusterMajor()
	if err != nil {
		return err
	}
	p, err := c.findPrograms(ctx, major)
	if err != nil {
		return err
	}
	if major == 0 {
		if err := c.initialize(ctx, p); err != nil {
			return err
		}
	}
	if err := c.writeAccess(); err != nil {
		return err
	}
	if err := c.clearStale(ctx, old); err != nil {
		return err
	}
	return c.launch(p)
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
		if err := pause(ctx, 10*pollInterval); err != nil {
			return err
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

func (c *Cluster) launch(p programs) error {
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
	if c.spawner != nil {
		attr.Sys.Pdeathsig = syscall.SIGINT
		start = c.spawner.start
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
		set("max_connections", "200") // many tests' pools at once
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
	if err := signalProcess(pid, unix.SIGINT); err != nil {
		return err
	}
	// The file goes a moment before the process does.
	for c.isPostmaster(pid) || c.children[pid] && !c.ended(pid) {
		if err := pause(ctx, pollInterval); err != nil {
			return fmt.Errorf("wait for Postgres (process %d) to stop: %w", pid, err)
		}
	}
	c.log.Info("stopped the private Postgres", "dir", c.dir, "pid", pid)
	return nil
}

// postmaster is what a server says about itself in postmaster.pid.
type postmaster struct {
	pid     int    // 0: there is no such file, or it is damaged
	status  string // starting, ready, stopping
	damaged bool   // being written, or half-written when the power went
}

func (c *Cluster) readPIDFile() (postmaster, error) {
	b, err := os.ReadFile(filepath.Join(c.dir, "data", "postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return postmaster{}, nil
	}
	if err != nil {
		return postmaster{}, err
	}
	// It is written in one go but extended later; only the first line is certain.
	lines := strings.Split(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid == 0 {
		return postmaster{damaged: true}, nil
	}
	pm := postmaster{pid: max(pid, -pid)} // negative: a repair in single-user mode
	if len(lines) >= 8 {
		pm.status = strings.TrimSpace(lines[7])
	}
	return pm, nil
}

// isPostmaster tells whether the process is the living server of this cluster.
// A process ID alone proves nothing: it may have been given to another program.
func (c *Cluster) isPostmaster(pid int) bool {
	if pid == 0 {
		return false
	}
	if c.children[pid] && c.ended(pid) {
		return false
	}
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return false
	}
	// "pid (name) state ...", where the name may hold anything.
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 || i+2 >= len(stat) || stat[i+2] == 'Z' || stat[i+2] == 'X' {
		return false
	}
	// A postmaster's working directory is its data directory.
	cwd, err := os.Stat(filepath.Join(proc, "cwd"))
	if err == nil {
		data, err := os.Stat(filepath.Join(c.dir, "data"))
		return err == nil && os.SameFile(cwd, data)
	}
	if !errors.Is(err, fs.ErrPermission) {
		return false
	}
	// Root without CAP_SYS_PTRACE (in a container) cannot look there.
	uid, err := ownerOf(proc)
	return err == nil && uid == c.owner.uid && bytes.HasPrefix(stat[bytes.IndexByte(stat, '(')+1:], []byte("postgres"))
}

// ended reaps a server that this Cluster started if it has ended, and tells so.
func (c *Cluster) ended(pid int) bool {
	if !c.children[pid] {
		return true
	}
	if got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); got != pid && (err == nil || err == unix.EINTR) {
		return false
	}
	delete(c.children, pid)
	return true
}

func signalProcess(pid int, sig syscall.Signal) error {
	if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
		return fmt.Errorf("signal Postgres (process %d): %w", pid, err)
	}
	return nil
}
