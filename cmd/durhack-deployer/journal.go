package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// isJournal says whether w is the pipe to systemd's journal: JOURNAL_STREAM names
// its device and inode, and is inherited also where w leads elsewhere.
func isJournal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// journalWriter puts the priority of sd-daemon(3) before each line that is not of
// level INFO, which is what the journal takes a line without one for. Each Write
// is one line, and without a time begins with its level.
type journalWriter struct{ io.Writer }

func (j journalWriter) Write(p []byte) (int, error) {
	for level, priority := range map[slog.Level]string{slog.LevelError: "<3>", slog.LevelWarn: "<4>", slog.LevelDebug: "<7>"} {
		if bytes.HasPrefix(p, []byte("level="+level.String())) {
			n, err := j.Writer.Write(append([]byte(priority), p...))
			return max(0, n-len(priority)), err
		}
	}
	return j.Writer.Write(p)
}
