package process

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// stat is what we need of /proc/PID/stat; see proc_pid_stat(5).
type stat struct {
	pid, pgrp, session int
	state              byte
	// start is in clock ticks since boot.
	start uint64
}

func (s stat) alive() bool { return s.state != 'Z' && s.state != 'X' }

func readStat(pid int) (stat, bool) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return stat{}, false
	}
	// The second field is the program's name in parentheses, and may itself
	// contain parentheses and blanks.
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return stat{}, false
	}
	f := bytes.Fields(b[end+1:])
	if len(f) < 20 || len(f[0]) != 1 {
		return stat{}, false
	}
	s := stat{pid: pid, state: f[0][0]}
	var err1, err2, err3 error
	s.pgrp, err1 = strconv.Atoi(string(f[2]))
	s.session, err2 = strconv.Atoi(string(f[3]))
	s.start, err3 = strconv.ParseUint(string(f[19]), 10, 64)
	return s, err1 == nil && err2 == nil && err3 == nil
}

// sessionMembers lists the processes of a session that are alive; zombies, which
// wait for whoever must reap them, are not.
func sessionMembers(sid int) []stat {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer func() { _ = dir.Close() }()
	names, _ := dir.Readdirnames(-1)
	var members []stat
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		// Nearly all belong to others, and this is ten times as fast as their stat.
		if session, err := unix.Getsid(pid); err == nil && session != sid {
			continue
		}
		if s, ok := readStat(pid); ok && s.session == sid && s.alive() {
			members = append(members, s)
		}
	}
	return members
}

// signalSession sends sig to each process group of a session. The caller knows
// that the session is the right one.
func signalSession(sid int, sig unix.Signal) {
	groups := []int{sid}
	for _, m := range sessionMembers(sid) {
		if m.pgrp > 1 && !slices.Contains(groups, m.pgrp) {
			groups = append(groups, m.pgrp)
		}
	}
	for _, g := range groups {
		_ = unix.Kill(-g, sig)
		if sig != unix.SIGKILL {
			_ = unix.Kill(-g, unix.SIGCONT) // a stopped process gets no other signal
		}
	}
}
