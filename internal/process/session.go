package process

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Stat is what we need of /proc/PID/stat; see proc_pid_stat(5).
type Stat struct {
	PID, Parent, Group, Session int
	// Name is the program's, which may change it and have anything in it.
	Name  string
	State byte
	// Start is in clock ticks since boot. With PID it tells a process from every other.
	Start uint64
	// Busy is the processor time that it and the children that it has waited for have
	// used, in clock ticks.
	Busy uint64
}

// Alive says whether it runs: a zombie, which waits for its parent, does not.
func (s Stat) Alive() bool { return s.State != 'Z' && s.State != 'X' }

// ReadStat looks at a process; false where there is none.
func ReadStat(pid int) (Stat, bool) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return Stat{}, false
	}
	// The second field is the program's name in parentheses, and may itself
	// contain parentheses and blanks.
	from, to := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if from < 0 || to < from {
		return Stat{}, false
	}
	f := strings.Fields(string(b[to+1:]))
	if len(f) < 20 || len(f[0]) != 1 {
		return Stat{}, false
	}
	ok := true
	number := func(text string) uint64 {
		n, err := strconv.ParseUint(text, 10, 64)
		ok = ok && err == nil
		return n
	}
	s := Stat{
		PID: pid, Parent: int(number(f[1])), Group: int(number(f[2])), Session: int(number(f[3])),
		Name: string(b[from+1 : to]), State: f[0][0], Start: number(f[19]),
	}
	for _, ticks := range f[11:15] { // utime, stime, cutime, cstime
		s.Busy += number(ticks)
	}
	return s, ok
}

// sessionMembers lists the processes of a session that are alive; zombies, which
// wait for whoever must reap them, are not.
func sessionMembers(sid int) []Stat {
	return processes(func(pid int) bool {
		// Nearly all belong to others, and this is ten times as fast as their stat.
		session, err := unix.Getsid(pid)
		return err != nil || session == sid
	}, func(s Stat) bool { return s.Session == sid })
}

// Children lists the processes that are alive and whose parent is pid.
func Children(pid int) []Stat {
	return processes(func(int) bool { return true }, func(s Stat) bool { return s.Parent == pid })
}

// All lists the processes that are alive.
func All() []Stat {
	return processes(func(int) bool { return true }, func(Stat) bool { return true })
}

// processes lists those that are alive, that may be wanted and are.
func processes(maybe func(pid int) bool, wanted func(Stat) bool) []Stat {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer func() { _ = dir.Close() }()
	names, _ := dir.Readdirnames(-1)
	var list []Stat
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || !maybe(pid) {
			continue
		}
		if s, ok := ReadStat(pid); ok && wanted(s) && s.Alive() {
			list = append(list, s)
		}
	}
	return list
}

// signalSession sends sig to each process group of a session. The caller knows
// that the session is the right one.
func signalSession(sid int, sig unix.Signal) {
	groups := []int{sid}
	for _, m := range sessionMembers(sid) {
		if m.Group > 1 && !slices.Contains(groups, m.Group) {
			groups = append(groups, m.Group)
		}
	}
	for _, g := range groups {
		_ = unix.Kill(-g, sig)
		if sig != unix.SIGKILL {
			_ = unix.Kill(-g, unix.SIGCONT) // a stopped process gets no other signal
		}
	}
}
