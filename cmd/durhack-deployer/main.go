// Command durhack-deployer deploys a team's apps when they push to GitHub, and
// answers what is live, who put it there, when, and why a push did or did not
// deploy. See `durhack-deployer --help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/process"
	"github.com/ducompsoc/durhack-deployer/internal/stream"
)

func main() {
	if code, ok := process.Init(); ok {
		os.Exit(code)
	}
	os.Exit(run(os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}

// sameSignal is how soon a second signal is still the first one.
const sameSignal = 300 * time.Millisecond

// How long the end of the program waits for somebody to read its output, and how
// long output waits for errors and progress that were written before it.
const (
	readWithin  = 2 * time.Second
	orderWithin = 200 * time.Millisecond
)

// run is the whole program but os.Exit. The first SIGINT, SIGTERM or SIGHUP ends
// the context, so that the verb drains; a second one gives up at once.
func run(args []string, s streams) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup wants it
		signal.Notify(signals, syscall.SIGHUP)
	}
	defer signal.Stop(signals)
	// Caught, though nobody reads it: a write to a closed pipe is then an error
	// like any other, so that a private Postgres is let go of in order. To ignore
	// the signal would pass that on to every program that is started.
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, syscall.SIGPIPE)
	defer signal.Stop(pipes)

	c := &cli{}
	stderr := stream.NewAsync(s.err, func(dropped int) {
		c.logger(slog.LevelWarn).Warn("lines were dropped: they could not be written to standard error", "lines", dropped)
	})
	defer stderr.Flush(readWithin)
	s.out = output{stream.NewUntil(ctx, s.out, readWithin), stderr}
	s.err = stderr
	c.streams = s
	type end struct {
		cmd *cobra.Command
		err error
	}
	done := make(chan end, 1)
	go func() {
		cmd, err := newRoot(c, args).ExecuteContextC(ctx)
		done <- end{cmd, err}
	}()
	var first time.Time
	for {
		select {
		case e := <-done:
			return report(s.err, e.cmd, e.err)
		case sig := <-signals:
			// One Ctrl-C may come twice: from the terminal, and passed on by a parent.
			if first.IsZero() {
				first = time.Now()
				cancel()
			}
			if time.Since(first) < sameSignal {
				continue
			}
			fmt.Fprintf(s.err, "durhack-deployer: a second %s: giving up at once; the next start puts things in order\n", sig)
			c.giveUp()
			return exitError
		}
	}
}

// whenGivingUp sets what a second signal does before the program ends without
// its verb; f runs beside the verb. nil takes it back.
func (c *cli) whenGivingUp(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onGiveUp = f
}

func (c *cli) giveUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.onGiveUp != nil {
		c.onGiveUp()
	}
}

// output is standard output, whose reader may leave: `log | head`. What was
// written to standard error before comes before it, where both are one terminal.
type output struct {
	*stream.Until
	before *stream.Async
}

func (o output) Write(p []byte) (int, error) {
	o.before.Flush(orderWithin)
	n, err := o.Until.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		err = errReaderLeft // not to be taken for a database that hung up
	}
	return n, err
}
