package process

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asInit plays PID 1, as far as its reaping goes, and then its child, which
// leaves an orphan.
func asInit() int {
	if os.Getenv("CHILD") == "" {
		if err := os.Setenv("CHILD", "1"); err != nil {
			return 1
		}
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return 2
		}
		code, ok := superviseSelf()
		if !ok {
			return 3
		}
		return code
	}
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, unix.SIGTERM)
	out, err := exec.Command("sh", "-c", "sleep 0.01 >&- & echo $!").Output()
	if err != nil {
		return 4
	}
	orphan := filepath.Join("/proc", strings.TrimSpace(string(out)))
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(orphan); err != nil {
			break
		}
		if time.Now().After(deadline) {
			return 5
		}
	}
	fmt.Println("reaped")
	<-terms
	return 7
}

func TestInit(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0], "as-init")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "reaped\n" {
		t.Errorf("it says %q, %v", line, err)
	}
	_ = cmd.Process.Signal(unix.SIGTERM)
	if err := cmd.Wait(); err == nil || err.Error() != "exit status 7" {
		t.Errorf("it ends with %v", err)
	}
}

func TestInitIsOnlyForPID1(t *testing.T) {
	t.Setenv(listenPID, passedOn)
	if _, ok := Init(); ok || os.Getenv(listenPID) != fmt.Sprint(os.Getpid()) {
		t.Errorf("ok %v, %s=%s", ok, listenPID, os.Getenv(listenPID))
	}
}
