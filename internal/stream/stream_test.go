package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// told is an Async that says on its stream what it dropped.
func told(to io.Writer) *Async {
	var a *Async
	a = NewAsync(to, func(n int) { fmt.Fprintf(a, "dropped %d\n", n) })
	return a
}

// gated is a stream that takes nothing until it is opened.
type gated struct {
	testkit.Buffer
	open chan struct{}
}

func (g *gated) Write(p []byte) (int, error) {
	<-g.open
	return g.Buffer.Write(p)
}

func TestAsyncDropsWhatNobodyReadsAndTellsHowMuch(t *testing.T) {
	g := &gated{open: make(chan struct{})}
	a := told(g)
	line := strings.Repeat("x", 1023) + "\n"
	const lines = 3 * queueLimit / 1024
	for range lines {
		if n, err := io.WriteString(a, line); n != len(line) || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
	a.Flush(time.Millisecond) // gives up
	a.Flush(patience)         // and does not wait again
	close(g.open)
	for !strings.Contains(g.String(), "dropped") { // the first has given up for good
		a.Flush(patience)
	}
	a.Flush(patience)
	kept := strings.Count(g.String(), line)
	if kept*len(line) > queueLimit || kept < queueLimit/len(line)/2 {
		t.Errorf("%d lines were kept", kept)
	}
	if want := fmt.Sprintf("dropped %d\n", lines-kept); !strings.HasSuffix(g.String(), line+want) {
		t.Errorf("the end is %q, want %q", g.String()[kept*len(line):], want)
	}
}

// failing is a stream on a full disk.
type failing struct {
	testkit.Buffer
	full bool
}

func (f *failing) Write(p []byte) (int, error) {
	if f.full {
		return 0, errors.New("no space left on device")
	}
	return f.Buffer.Write(p)
}

func TestAsyncTellsOfFailedWritesOnceTheySucceedAgain(t *testing.T) {
	f := &failing{full: true}
	a := told(f)
	for range 3 {
		fmt.Fprintln(a, "lost")
		a.Flush(patience)
	}
	f.full = false
	fmt.Fprintln(a, "kept")
	a.Flush(patience)
	if want := "kept\ndropped 3\n"; f.String() != want {
		t.Errorf("got %q, want %q", f.String(), want)
	}
}

func TestAsyncTakesALineThatIsLargerThanTheQueue(t *testing.T) {
	var out testkit.Buffer
	a := told(&out)
	fmt.Fprint(a, strings.Repeat("x", 2*queueLimit))
	a.Flush(patience)
	if n := len(out.String()); n != 2*queueLimit {
		t.Errorf("%d bytes were written", n)
	}
}

func TestUntilWaitsForTheReaderButNotPastTheEnd(t *testing.T) {
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	u := NewUntil(ctx, w, time.Millisecond)
	go func() { _, _ = r.Read(make([]byte, 3)) }()
	if n, err := io.WriteString(u, "one"); n != 3 || err != nil {
		t.Errorf("a write that was read: %d, %v", n, err)
	}
	cancel()
	for range 2 {
		if _, err := io.WriteString(u, "two"); !errors.Is(err, ErrNotRead) {
			t.Errorf("a write that nobody read: %v", err)
		}
	}
	r.Close() // lets the write go
}

func TestUntilWritesAfterTheEndWhereSomebodyReads(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out testkit.Buffer
	if _, err := io.WriteString(NewUntil(ctx, &out, patience), "bye"); err != nil || out.String() != "bye" {
		t.Errorf("%q, %v", out.String(), err)
	}
}
