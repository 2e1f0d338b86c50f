package helper

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/process"
)

// Client asks the helper.
type Client struct {
	// Socket is where durhack-deployer-helper.socket listens.
	Socket string
	// Command, where there is no systemd, is what is run in place of the socket: sudo
	// and what it may run.
	Command []string
}

// Call has the helper do what r says; out, if not nil, gets what its programs say. An
// exit code that is not 0 is a *process.ExitError.
func (c Client) Call(ctx context.Context, r Request, out io.Writer) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("ask the helper: %w", err)
	}
	if len(line) >= maxRequest {
		return fmt.Errorf("ask the helper: a request of %d bytes is too long", len(line))
	}
	line = append(line, '\n')
	ctx, cancel := context.WithTimeoutCause(ctx, callWithin, fmt.Errorf("the helper gave no result within %v", callWithin))
	defer cancel()
	if out == nil {
		out = io.Discard
	}
	answers := &answers{out: &serial{w: out}}
	if len(c.Command) > 0 {
		err = run(ctx, c.Command, line, answers)
	} else {
		err = c.dial(ctx, line, answers)
	}
	what := strings.Join(append([]string{r.Verb}, r.Args...), " ")
	result := answers.result
	switch {
	case result == nil && ctx.Err() != nil:
		return fmt.Errorf("%s: %w", what, &process.StoppedError{Program: "the helper", Cause: context.Cause(ctx)})
	case result == nil:
		return fmt.Errorf("%s: %w", what, cmp.Or(err, answers.err, errNoResult))
	case result.Error != "":
		return fmt.Errorf("%s: the helper says: %s", what, result.Error)
	case result.ExitCode != 0 || result.Signal != "":
		return &process.ExitError{Program: what, Code: result.ExitCode, Signal: result.Signal}
	}
	return nil
}

var errNoResult = errors.New("the helper ended without a result: root's journal says why (journalctl -u 'durhack-deployer-helper*')")

func (c Client) dial(ctx context.Context, line []byte, answers *answers) error {
	dialer := net.Dialer{Timeout: requestWithin}
	conn, err := dialer.DialContext(ctx, "unix", c.Socket)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no helper listens at %s: set it up as docs/handlers/helper.md says, or as root run `systemctl start durhack-deployer-helper.socket`", c.Socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("this user may not ask the helper at %s: run this as the user that the daemon runs as", c.Socket)
	case err != nil:
		return fmt.Errorf("ask the helper: %w", err)
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write(line); err != nil && !errors.Is(err, syscall.EPIPE) { // it may have answered all the same
		return fmt.Errorf("ask the helper: %w", err)
	}
	_, err = io.Copy(answers, conn)
	return err
}

// run speaks with a helper that is a child of ours.
func run(ctx context.Context, argv []string, line []byte, answers *answers) error {
	fd, err := unix.MemfdCreate("request", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("ask the helper: %w", err)
	}
	stdin := os.NewFile(uintptr(fd), "request")
	defer stdin.Close()
	if _, err = stdin.WriteAt(line, 0); err != nil {
		return fmt.Errorf("ask the helper: %w", err)
	}
	return process.Run(ctx, process.Command{
		Argv: argv, Env: environment, Stdin: stdin, Stdout: answers, Stderr: answers.out,
	})
}

// environment is that of every program here.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root"}

// answers takes the lines of the helper's answer.
type answers struct {
	out    io.Writer
	line   []byte
	result *answer
	err    error
}

func (a *answers) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0 && a.err == nil && a.result == nil; {
		piece, after, whole := bytes.Cut(rest, []byte("\n"))
		a.line, rest = append(a.line, piece...), after
		if len(a.line) > maxAnswer {
			a.err = errors.New("the helper's answer has a line that is too long")
		} else if whole {
			a.take()
		}
	}
	return len(p), a.err
}

func (a *answers) take() {
	var one answer
	if err := json.Unmarshal(a.line, &one); err != nil {
		a.err = fmt.Errorf("read the helper's answer: %w", err)
	}
	a.line = a.line[:0]
	_, _ = a.out.Write(one.Output) // what cannot be kept of the output changes no result
	if one.Done {
		a.result = &one
	}
}
