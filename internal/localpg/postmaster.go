package localpg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/process"
)

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
	stat, ok := process.ReadStat(pid)
	if !ok || !stat.Alive() {
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
	return err == nil && uid == c.owner.uid && strings.HasPrefix(stat.Name, "postgres")
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
