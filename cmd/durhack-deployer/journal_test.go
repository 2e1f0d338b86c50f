package main

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A pipe stands for the journal where JOURNAL_STREAM names it, and only there.
func TestLoggerTellsTheJournalPriorities(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(write.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	c := &cli{streams: streams{err: write}}
	lines := bufio.NewScanner(read)
	log := func(stream string, level slog.Level) string {
		t.Setenv("JOURNAL_STREAM", stream)
		c.logger(slog.LevelDebug).Log(t.Context(), level, "m")
		lines.Scan()
		return lines.Text()
	}
	its := fmt.Sprintf("%d:%d", st.Dev, st.Ino)
	for level, want := range map[slog.Level]string{
		slog.LevelDebug: "<7>level=DEBUG msg=m",
		slog.LevelInfo:  "level=INFO msg=m",
		slog.LevelWarn:  "<4>level=WARN msg=m",
		slog.LevelError: "<3>level=ERROR msg=m",
	} {
		if got := log(its, level); got != want {
			t.Errorf("to the journal: %q, want %q", got, want)
		}
	}
	for _, stream := range []string{"", "1:2"} {
		if got := log(stream, slog.LevelError); got[:5] != "time=" {
			t.Errorf("with JOURNAL_STREAM=%q to somewhere else: %q, want a line with its time", stream, got)
		}
	}
}
