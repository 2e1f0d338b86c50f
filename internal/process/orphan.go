package process

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// record is the content of Command.File.
type record struct {
	// PID is also the number of the process group and of the session.
	PID int `json:"pid"`
	// Start is in clock ticks since boot.
	Start uint64 `json:"start"`
	Boot  string `json:"boot"`
	Mark  string `json:"mark"`
}

// unfinished ends the name of a file that is being written.
const unfinished = ".tmp"

// writeFile names a running program in file, or with a PID of 0 one that is about to
// be started: it is then known by its mark alone. It needs no fsync: no process
// outlives the machine.
func writeFile(file string, pid int, mark string) error {
	r := record{PID: pid, Boot: bootID(), Mark: mark}
	if pid != 0 {
		s, ok := ReadStat(pid)
		if !ok {
			return fmt.Errorf("read /proc/%d/stat", pid)
		}
		r.Start = s.Start
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode process file: %w", err)
	}
	tmp := file + unfinished
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("write process file: %w", err)
	}
	if err := os.Rename(tmp, file); err != nil {
		return fmt.Errorf("write process file: %w", err)
	}
	return nil
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// KillOrphan ends what is left of the program that file names, after whoever ran
// it was killed: TERM to its session, after grace (zero is DefaultGrace) KILL.
// It returns when nothing is left, and removes the file.
//
// Numbers are reused, so the session is ours only if its leader still has the
// recorded start time, or, where the leader is gone, if a member carries the
// mark that the program got in its environment. Otherwise nothing is touched.
// The caller makes sure that nobody runs the program any more. A missing file
// is no error.
func KillOrphan(file string, grace time.Duration) (killed bool, err error) {
	if grace <= 0 {
		grace = DefaultGrace
	}
	// The first is there where we were killed before the rename; it may be cut short.
	for _, name := range []string{file + unfinished, file} {
		k, err := killOrphan(name, grace)
		killed = killed || k
		if err != nil {
			return killed, err
		}
	}
	return killed, nil
}

func killOrphan(file string, grace time.Duration) (killed bool, err error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read process file: %w", err)
	}
	var r record
	// A file that is not ours to understand names nothing that we may kill.
	known := json.Unmarshal(b, &r) == nil && r.Boot == bootID()
	if known && r.PID == 0 && r.Mark != "" {
		r.PID = markedSession(r.Mark)
	}
	if known && r.PID > 1 && r.owns() {
		killed = endSession(r.PID, time.Time{}, grace)
		if left := sessionMembers(r.PID); len(left) > 0 {
			return true, fmt.Errorf("end what is left of process %d: process %d is still alive after KILL", r.PID, left[0].PID)
		}
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return killed, fmt.Errorf("remove process file: %w", err)
	}
	return killed, nil
}

// owns says whether the session with the recorded number is that of the program.
// A session's number is not given to a new process while it has a member, so one
// member that is surely ours makes all of them ours.
func (r record) owns() bool {
	for _, m := range sessionMembers(r.PID) {
		if m.PID == r.PID && m.Start == r.Start || r.Mark != "" && hasMark(m.PID, r.Mark) {
			return true
		}
	}
	return false
}

// markedSession is that of the oldest process with the mark: the program itself, or what
// it has left in its session. What made a session for itself is younger. 0 where there is none.
func markedSession(mark string) int {
	var oldest Stat
	for _, s := range processes(func(pid int) bool { return hasMark(pid, mark) }, func(Stat) bool { return true }) {
		if oldest.Session == 0 || s.Start < oldest.Start {
			oldest = s
		}
	}
	return oldest.Session
}

func hasMark(pid int, mark string) bool {
	env, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return false
	}
	want := []byte(markVar + "=" + mark)
	for kv := range bytes.SplitSeq(env, []byte{0}) {
		if bytes.Equal(kv, want) {
			return true
		}
	}
	return false
}
