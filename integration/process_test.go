package integration

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is a running daemon. It ends with its test, whatever happens.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	stderr  string // a file: nothing of the daemon depends on our reading
	ended   chan struct{}
	waitErr error // valid once ended is closed
}

// start starts a daemon (serve, listen or work) and does not wait for anything.
func (s *site) start(verb string) *process {
	s.t.Helper()
	return s.startAs(verb, s.config, nil)
}

func (s *site) startAs(verb, config string, as *syscall.Credential) *process {
	s.t.Helper()
	s.mu.Lock()
	s.started++
	name := filepath.Join(s.dir, verb+"-"+strconv.Itoa(s.started)+".log")
	s.mu.Unlock()
	log, err := os.Create(name)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	return s.startWith(verb, config, as, log)
}

// startWith starts a daemon whose standard error is a file that the caller opened.
func (s *site) startWith(verb, config string, as *syscall.Credential, stderr *os.File) *process {
	s.t.Helper()
	name := stderr.Name()
	cmd := exec.Command(program, verb, "--config", config)
	cmd.Dir = s.dir
	cmd.Env = s.environ()
	cmd.Stderr = stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: as,
		// A test binary that is killed, as on a timeout, leaves no daemon behind.
		Pdeathsig: syscall.SIGKILL,
	}
	p := &process{t: s.t, cmd: cmd, stderr: name, ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.ended)
		// The signal above comes when the thread that forked ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.waitErr = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		s.t.Fatalf("start %s: %v", verb, err)
	}
	s.t.Cleanup(func() {
		p.kill()
		if s.t.Failed() {
			s.t.Logf("%s said:\n%s", filepath.Base(name), lastLines(p.output(), 60))
		}
		if text := p.output(); strings.Contains(text, "DATA RACE") || strings.Contains(text, "\npanic: ") {
			s.t.Errorf("%s:\n%s", filepath.Base(name), text)
		}
	})
	return p
}

func (p *process) output() string {
	b, err := os.ReadFile(p.stderr)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

var (
	listening = regexp.MustCompile(`msg=listening addr=(\S+)`)
	admin     = regexp.MustCompile(`msg="admin pages" addr=(\S+)`)
)

// addr waits until the daemon listens and returns where.
func (p *process) addr() string { return p.said(listening) }

// admin waits until it has the address of its admin pages and returns it.
func (p *process) admin() string { return p.said(admin) }

// said waits until the daemon has said what matches, and returns the group in it.
func (p *process) said(what *regexp.Regexp) string {
	p.t.Helper()
	var addr string
	await(p.t, "the daemon to say where it listens", func() bool {
		if m := what.FindStringSubmatch(p.output()); m != nil {
			addr = m[1]
			return true
		}
		p.mustRun()
		return false
	})
	return addr
}

// says waits until the daemon has printed text.
func (p *process) says(text string) {
	p.t.Helper()
	await(p.t, "the daemon to say "+strconv.Quote(text), func() bool {
		if strings.Contains(p.output(), text) {
			return true
		}
		p.mustRun()
		return false
	})
}

func (p *process) mustRun() {
	p.t.Helper()
	select {
	case <-p.ended:
		p.t.Fatalf("the daemon ended: %v\n%s", p.waitErr, lastLines(p.output(), 30))
	default:
	}
}

func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
}

// kill ends the daemon as a crash would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// stop asks the daemon to end, and wants it to say that all is well.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	p.exits(0)
}

// exits waits for the end of the daemon.
func (p *process) exits(code int) {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(limit):
		p.t.Fatalf("the daemon does not end:\n%s", lastLines(p.output(), 30))
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Fatalf("the daemon ended with %v, want exit code %d\n%s", p.waitErr, code, lastLines(p.output(), 30))
	}
}

// peakMemory is the most that the daemon ever had in memory, in bytes.
func (p *process) peakMemory() int64 {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			kib, err := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB")))), 10, 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return kib << 10
		}
	}
	p.t.Fatalf("no VmHWM in\n%s", b)
	return 0
}

// refuses waits until nothing accepts connections at addr.
func refuses(t *testing.T, addr string) {
	t.Helper()
	await(t, "the listener to be gone", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

// await polls until done says true.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !done(); time.Sleep(15 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain for %s", limit, what)
		}
	}
}

func lastLines(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
