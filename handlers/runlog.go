package handlers

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/mask"
)

// DefaultRunLogLimit is how much output of a run is kept in its file, in bytes.
const DefaultRunLogLimit = 20 << 20

// lineTime is how our own lines in a run log begin, after "== ".
const lineTime = "2006-01-02T15:04:05.000Z"

// headroom is for headers, footers and the tail, which are kept beyond the limit.
const headroom = 256 << 10

// RunLogOptions are the lesser choices of OpenRunLog; the zero value will do.
type RunLogOptions struct {
	// Limit is how much output is kept in the file, in bytes; 0 is DefaultRunLogLimit.
	Limit int64
	// Log is told once if the file cannot be written; nil tells nobody.
	Log *slog.Logger
	// Now is the clock of headers and footers; nil is time.Now.
	Now func() time.Time
}

// RunLog keeps the output of one run: in a file, with secrets masked and up to a
// limit, and its end in memory. It is an io.Writer that never fails, because a
// full disk must not fail a deploy, and a Reporter that writes a line at the
// start and end of each step. It is safe for concurrent use.
type RunLog struct {
	path string
	opts RunLogOptions
	set  *mask.Set
	mask *mask.Writer // writes to output

	mu      sync.Mutex
	file    *os.File // nil once it cannot be written
	digest  hash.Hash
	written int64 // bytes in the file
	output  int64 // of these, and of the dropped ones, bytes of output
	dropped int64
	newline bool // what was written last ends a line
	tail    tail
	broken  error
	closed  bool
}

// OpenRunLog begins the run log at path, making its directory; what stands there
// from a run that was never recorded is replaced. The secrets are masked in
// everything that is written (see mask.Forms). The RunLog is never nil: when the
// error is not nil, nothing is kept on disk, and everything else works.
func OpenRunLog(path string, secrets []string, opts RunLogOptions) (*RunLog, error) {
	if opts.Limit <= 0 {
		opts.Limit = DefaultRunLogLimit
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	l := &RunLog{path: path, opts: opts, set: mask.NewSet(secrets), digest: sha256.New(), newline: true}
	l.mask = mask.NewWriter(outputWriter{l}, l.set)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		l.broken = err
		return l, fmt.Errorf("open run log: %w", err)
	}
	// Not to wait for the reader of a pipe that somebody put there.
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o640)
	if err == nil {
		if info, statErr := file.Stat(); statErr != nil || info.Mode()&os.ModeNamedPipe != 0 {
			_ = file.Close()
			err = errors.Join(statErr, fmt.Errorf("%s is a pipe", path))
		}
	}
	if err != nil {
		l.broken = err
		return l, fmt.Errorf("open run log: %w", err)
	}
	l.file = file
	return l, nil
}

// RunLogName is the name of the file of one run's log, within its deployment's directory.
func RunLogName(deliveryID string, attempt int) string {
	return fmt.Sprintf("%s-%d.log", deliveryID, attempt)
}

// Write takes output of the running step. It never fails.
func (l *RunLog) Write(p []byte) (int, error) {
	_, _ = l.mask.Write(p)
	return len(p), nil
}

// Mask returns text with the run's secrets masked, as for an error message.
func (l *RunLog) Mask(text string) string { return l.set.String(text) }

// Note writes a line of our own, with the time. It is not for use while a step
// writes: a secret is not recognized across a Note.
func (l *RunLog) Note(format string, args ...any) {
	_ = l.mask.Flush()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line("%s", l.set.String(fmt.Sprintf(format, args...)))
}

// StepStarted implements Reporter. The tail starts again, so that it belongs to
// the step that failed.
func (l *RunLog) StepStarted(name string) {
	_ = l.mask.Flush()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = tail{}
	l.line("step %s", l.set.String(name))
}

// StepEnded implements Reporter.
func (l *RunLog) StepEnded(r StepResult) {
	_ = l.mask.Flush()
	l.mu.Lock()
	defer l.mu.Unlock()
	text := fmt.Sprintf("step %s: %s after %v", r.Name, r.Outcome, r.Duration.Round(time.Millisecond))
	if r.Err != nil {
		text += ": " + r.Err.Error()
	}
	l.line("%s", l.set.String(text))
}

// Tail is the end of the latest step's output, secrets masked: at most 20 lines
// and 4 KiB, whole lines where possible, valid UTF-8 without NUL.
func (l *RunLog) Tail() string {
	// No flush: it would let a secret through of which a running step has written
	// a part. StepEnded has done it.
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tail.String()
}

// Digest is the hex SHA-256 of the file's content; it is final after Close. It
// is empty where there is no file.
func (l *RunLog) Digest() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil && l.written == 0 {
		return ""
	}
	return hex.EncodeToString(l.digest.Sum(nil))
}

// Close ends the file, where output was dropped with the tail. Closing again
// does nothing.
func (l *RunLog) Close() error {
	_ = l.mask.Flush()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if l.dropped > 0 && l.broken == nil {
		l.line("%d bytes of output were dropped; the last lines of the output were:", l.dropped)
		l.toFile([]byte(l.tail.String()))
	}
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	if err != nil && l.broken == nil {
		return fmt.Errorf("close run log: %w", err)
	}
	return nil
}

// outputWriter takes the masked output.
type outputWriter struct{ l *RunLog }

func (w outputWriter) Write(p []byte) (int, error) {
	l := w.l
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail.write(p)
	keep := p
	if room := l.opts.Limit - l.output; int64(len(p)) > room {
		keep = p[:max(0, room)]
	}
	l.output += int64(len(p))
	l.toFile(keep)
	if len(keep) < len(p) && !l.closed {
		if l.dropped == 0 {
			l.line("the output is longer than %d bytes; what follows is dropped", l.opts.Limit)
		}
		l.dropped += int64(len(p) - len(keep))
	}
	return len(p), nil
}

// line writes a line of our own on its own line.
func (l *RunLog) line(format string, args ...any) {
	text := strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, fmt.Sprintf(format, args...))
	text = fmt.Sprintf("== %s %s\n", l.opts.Now().UTC().Format(lineTime), text)
	if !l.newline {
		text = "\n" + text
	}
	if l.written+int64(len(text)) > l.opts.Limit+headroom {
		return
	}
	l.toFile([]byte(text))
}

func (l *RunLog) toFile(p []byte) {
	if l.file == nil || l.broken != nil || len(p) == 0 {
		return
	}
	n, err := l.file.Write(p)
	if n > 0 {
		l.digest.Write(p[:n])
		l.written += int64(n)
		l.newline = p[n-1] == '\n'
	}
	if err != nil {
		l.broken = err
		l.opts.Log.Warn("the run log cannot be written any more; the deploy goes on", "path", l.path, "error", err)
	}
}

// Progress reads from a run log which step of the plan runs, counted from 1, and since
// when; 0 where none is running.
func Progress(path string, plan []string) (n int, since time.Time, err error) {
	starts, err := Starts(path, plan)
	if n = len(starts); n > 0 {
		since = starts[n-1]
	}
	return n, since, err
}

// Starts reads from a run log when the steps of the plan began, as far as they have. Of one
// that was not begun, though one behind it was, that is when that one began.
func Starts(path string, plan []string) (starts []time.Time, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	lines := bufio.NewReaderSize(file, 64<<10)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull): // no line of ours is that long
		case errors.Is(err, io.EOF):
			return starts, nil
		case err != nil:
			return starts, err
		default:
			at, text, _ := strings.Cut(strings.TrimPrefix(strings.TrimSuffix(string(line), "\n"), "== "), " step ")
			when, timeErr := time.Parse(lineTime, at)
			if timeErr != nil || line[0] != '=' {
				continue
			}
			for i := slices.Index(plan, text); i >= len(starts); { // output may look like a line of ours
				starts = append(starts, when)
			}
		}
	}
}
