package process

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

type fileID struct{ dev, inode uint64 }

func idOf(info fs.FileInfo) fileID {
	stat := info.Sys().(*syscall.Stat_t)
	return fileID{stat.Dev, stat.Ino}
}

// OpenFiles are the files and pipes that processes have open, each with the one
// of these processes that is likely to have started the others.
type OpenFiles map[fileID]int

// FindOpenFiles looks for them, as far as we may, in all processes but one; no
// process is 0.
func FindOpenFiles(except int) OpenFiles {
	open := OpenFiles{}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		pid, err := strconv.Atoi(strings.Split(fd, "/")[2])
		if err != nil || pid == except {
			continue
		}
		// Stat follows the link to the open file itself, whatever its name is by now.
		if info, err := os.Stat(fd); err == nil {
			if first, ok := open[idOf(info)]; !ok || pid < first {
				open[idOf(info)] = pid
			}
		}
	}
	return open
}

// By names a process that has the file open, as in "process 7 (git)"; empty where
// none is known.
func (o OpenFiles) By(info fs.FileInfo) string {
	pid, ok := o[idOf(info)]
	if !ok {
		return ""
	}
	name, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	return fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(string(name)))
}
