package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	proc "github.com/ducompsoc/durhack-deployer/internal/process"
)

// machine names what the figures depend on.
type machine struct {
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	MemoryMiB  int    `json:"memory_mib"`
	Kernel     string `json:"kernel"`
	FileSystem string `json:"file_system"`
	Go         string `json:"go"`
	// Load is the one-minute load average before the first row: above about 1,
	// others were at work and the figures are not worth much.
	Load string `json:"load"`
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, %d MiB, Linux %s, %s, %s; load average %s", m.CPU, m.Cores, m.MemoryMiB, m.Kernel, m.FileSystem, m.Go, m.Load)
}

func describeMachine(dir string) (machine, error) {
	m := machine{CPU: runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version()}
	if v, err := field("/proc/cpuinfo", "model name"); err == nil {
		m.CPU = v
	}
	if v, err := field("/proc/meminfo", "MemTotal"); err == nil {
		kib, _, _ := strings.Cut(v, " ")
		n, _ := strconv.Atoi(kib)
		m.MemoryMiB = n / 1024
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load, _, _ = strings.Cut(string(b), " ")
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return m, fmt.Errorf("ask for the kernel: %w", err)
	}
	m.Kernel = unix.ByteSliceToString(u.Release[:])
	kind, err := fileSystem(dir)
	m.FileSystem = kind
	return m, err
}

// field reads "name: value" of a file in /proc.
func field(path, name string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(b) {
		key, v, ok := bytes.Cut(line, []byte(":"))
		if ok && string(bytes.TrimSpace(key)) == name {
			return string(bytes.TrimSpace(v)), nil
		}
	}
	return "", fmt.Errorf("%s has no %q", path, name)
}

// fileSystem is the type of the file system that holds a directory.
func fileSystem(dir string) (string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	defer f.Close()
	best, kind := "", ""
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		part := strings.Fields(lines.Text())
		if len(part) < 3 || len(part[1]) < len(best) {
			continue
		}
		if part[1] == "/" || dir == part[1] || strings.HasPrefix(dir, part[1]+"/") {
			best, kind = part[1], part[2]
		}
	}
	return kind, lines.Err()
}

// resident is a process's VmRSS or VmHWM in MiB.
func resident(pid int, name string) (float64, error) {
	v, err := field(fmt.Sprintf("/proc/%d/status", pid), name)
	if err != nil {
		return 0, err
	}
	kib, err := strconv.ParseFloat(strings.TrimSuffix(v, " kB"), 64)
	if err != nil {
		return 0, fmt.Errorf("read %s of process %d: %w", name, pid, err)
	}
	return kib / 1024, nil
}

// busy is the processor time that a process has used, in clock ticks.
func busy(pid int) (int, error) {
	s, ok := proc.ReadStat(pid)
	if !ok {
		return 0, fmt.Errorf("look at process %d: it is gone", pid)
	}
	return int(s.Busy), nil
}
