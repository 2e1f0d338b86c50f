// Package daemon is the one place that knows every part: it wires them by the
// configuration, starts them, keeps them running, and stops them in order.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ducompsoc/durhack-deployer/handlers/self"
	"github.com/ducompsoc/durhack-deployer/internal/api"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/durable"
	"github.com/ducompsoc/durhack-deployer/internal/github"
	"github.com/ducompsoc/durhack-deployer/internal/metrics"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
	"github.com/ducompsoc/durhack-deployer/internal/webhook"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// Options say which parts run: both for `serve`, one for `listen` or `work`.
type Options struct {
	Config  *config.Config
	Listen  bool
	Work    bool
	Version string
	Logger  *slog.Logger
	// Program and Args are how the program was called, so that the configuration is
	// kept as the last good one of such a call; without Program it is not kept.
	Program string
	Args    []string
	// Refused says why Config is the last good configuration and not the present one;
	// nil where it is.
	Refused error
	// Sockets are what systemd listens on for us; without any, the address of the
	// configuration is bound. systemd keeps them open over a restart.
	Sockets []net.Listener
	// main is the main queue, where deploys by hand go in.
	main *queue.Queue
	// process is this daemon, as the handler self sees it.
	process self.Process
	// github is nil without credentials.
	github *github.Client
	// Listening, if not nil, is called once with the public address.
	Listening func(net.Addr)
	// Administering is the same with the private address.
	Administering func(net.Addr)
}

// Run runs until ctx ends, then drains: a running deploy gets its grace, while
// pushes are still accepted; then the listener stops accepting and finishes its
// requests, and what is left waits in the queues. It returns early with an error only for what a restart
// by itself cannot fix (a port in use, an unwritable state_dir, a newer
// schema); the database being away is waited out.
func Run(ctx context.Context, o Options) error {
	if err := Refuse(o.Config, o.Listen, o.Work); err != nil {
		return err
	}
	if err := MakeStateDir(o.Config); err != nil {
		return err
	}
	if o.Work {
		for _, missing := range o.Config.Missing() {
			o.Logger.Error("GitHub or people cannot be told for now, while deploys go on: put the credentials right; a file that was named is read again before each try, anything else at the next start", "error", missing)
		}
		if err := errors.Join(keepInstance(o.Config), makeKnownHosts(o.Config)); err != nil {
			return err
		}
	}
	main, err := queue.Open(o.Config.QueueDir(names.MainQueue), o.Logger)
	if err != nil {
		return fmt.Errorf("open the main queue: %w", err)
	}
	o.main = main
	var listenErr, workErr error
	defer func() {
		if !errors.Is(listenErr, errStillStoring) { // which uses it
			_ = main.Close()
		}
	}()
	// Each part's end ends the others. The listener goes last: GitHub does not
	// send again what it is refused, and the queue keeps what comes meanwhile.
	working, stopWorking := context.WithCancel(ctx)
	listening, stopListening := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWorking()
	defer stopListening()

	state := &condition{phase: phaseStarting, refused: o.Refused, feed: api.NewFeed(), tallying: tallying{since: time.Now(), answers: metrics.NewAnswers()}}
	var serve func(context.Context) error
	if o.Listen {
		if serve, err = newListener(ctx, o, main, state); err != nil {
			if ctx.Err() != nil {
				return nil // stopped before it had begun
			}
			return err
		}
	}
	o.process = thisProcess(o.Config, o.Logger, state, stopWorking)
	if o.github, err = NewGitHub(o.Config, o.Version); err != nil {
		return err
	}
	if o.Program != "" && o.Refused == nil { // it has proved to be good for a start
		path, content, err := o.Config.Keep(o.Program, o.Args, os.Getenv, time.Now())
		if err == nil {
			err = durable.WriteFile(path, content, 0o600)
		}
		if err != nil {
			o.Logger.Warn("the configuration is not kept: a start with one that is refused would fail", "error", err)
		}
	}
	// The admin pages outlast the parts, to tell of their draining.
	administering, stopAdministering := context.WithCancel(context.WithoutCancel(ctx))
	var pages sync.WaitGroup
	defer pages.Wait()
	defer stopAdministering()
	if o.Work {
		pages.Go(func() {
			keep(administering, o.Logger, "admin", func(ctx context.Context) error { return administer(ctx, o, state) }, nil)
		})
	}
	var parts sync.WaitGroup
	if serve != nil {
		parts.Go(func() {
			defer stopWorking()
			listenErr = serve(listening)
		})
	}
	parts.Go(func() {
		defer stopListening()
		if !o.Work {
			<-working.Done()
			return
		}
		workErr = work(working, o, main, state)
		stopWorking()
	})
	tellSystemd(o.Logger, "READY=1")
	debug.FreeOSMemory() // a start leaves more behind than what comes after it uses
	<-working.Done()
	state.enter(phaseDraining, "")
	o.Logger.Info("draining")
	tellSystemd(o.Logger, "STOPPING=1")
	parts.Wait()
	return errors.Join(listenErr, workErr)
}

// Refuse names what must be fixed in the configuration before a daemon with
// these parts may start.
func Refuse(cfg *config.Config, listen, work bool) error {
	return refuse(cfg, listen, work, cfg.Problems())
}

// Wrong is what Refuse names, and the credentials that a worker starts without.
func Wrong(cfg *config.Config, listen, work bool) error {
	return refuse(cfg, listen, work, append(cfg.Problems(), cfg.Missing()...))
}

func refuse(cfg *config.Config, listen, work bool, problems []*config.Error) error {
	if listen {
		if err := cfg.RequireSecret(); err != nil {
			return err
		}
	}
	if !work {
		return nil
	}
	for _, slug := range cfg.Slugs() {
		d := cfg.Deployments[slug]
		if !d.Enabled {
			continue
		}
		// The handler has the last word: a worker that cannot have one would let
		// its pushes wait.
		_, err := As(d)
		if err == nil {
			_, err = Handler(cfg, d)
		}
		if err != nil {
			problems = append(problems, d.Refused(strings.ReplaceAll(err.Error(), "\n", "; "), "change it, or set enabled = false"))
		}
	}
	if len(problems) > 0 {
		return &config.Errors{List: problems}
	}
	return nil
}

// newListener binds the public address, where systemd has not; the function that
// it returns serves it.
func newListener(ctx context.Context, o Options, main *queue.Queue, state *condition) (func(context.Context) error, error) {
	var secrets [][]byte
	for _, s := range o.Config.Secrets {
		secrets = append(secrets, []byte(s.Reveal()))
	}
	refused := openRefusals(o.Config, o.Logger)
	state.tallying.answers.Begin(webhook.Statuses()...)
	handler, err := webhook.NewHandler(webhook.Options{
		Answered: func(status int, reason string) {
			state.tallying.answers.Count(status)
			if reason != "" {
				refused.add(reason)
			}
		},
		Secrets: secrets, Queue: main, Log: o.Logger, Instance: o.Config.Instance, Version: o.Version,
		ProxyFix: webhook.ProxyFix{XFor: o.Config.ProxyFix.XFor, XProto: o.Config.ProxyFix.XProto},
	})
	if err != nil {
		return nil, err
	}
	listeners := slices.Clone(o.Sockets)
	for i, l := range listeners {
		// Shared with systemd, and with the process after this one: see webhook.Server.Serve.
		listeners[i] = struct{ net.Listener }{l}
		o.Logger.Info("listening", "addr", l.Addr().String(), "path", "/github-webhook", "socket", "of systemd, so [listen] host and port have no effect")
	}
	if len(listeners) == 0 {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, o.Config.Listen.Network(), o.Config.Listen.String())
		if err != nil {
			return nil, fmt.Errorf("listen for webhooks on %s ([listen] host, port): %w", o.Config.Listen, err)
		}
		listeners = append(listeners, l)
		o.Logger.Info("listening", "addr", l.Addr().String(), "path", "/github-webhook")
	}
	if o.Listening != nil {
		o.Listening(listeners[0].Addr())
	}
	server := webhook.NewServer(handler, o.Logger, webhook.Limits{})
	return func(ctx context.Context) error {
		counting, stop := context.WithCancel(context.WithoutCancel(ctx)) // also what is refused while it drains
		var counter sync.WaitGroup
		counter.Go(func() { refused.keep(counting) })
		defer counter.Wait()
		defer stop()
		err := server.Serve(ctx, listeners...)
		settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleWithin)
		defer cancel()
		if !handler.Settle(settling) {
			err = errors.Join(err, errStillStoring)
		}
		return err
	}, nil
}

// settleWithin bounds the wait for a disk that hangs, after the last request was answered.
const settleWithin = 5 * time.Second

var errStillStoring = errors.New("the disk hangs: deliveries whose senders were refused are still being stored")

// tellSystemd tells systemd, where there is one that asked. One that does not read
// must not hold us up.
func tellSystemd(log *slog.Logger, state string) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err == nil {
		defer func() { _ = conn.Close() }()
		_ = conn.SetWriteDeadline(time.Now().Add(notifyWithin)) // a new socket has deadlines
		_, err = conn.Write([]byte(state))
	}
	if err != nil {
		log.Warn("notify systemd", "error", err)
	}
}

// notifyWithin bounds a message to systemd.
const notifyWithin = time.Second

var errEndedByItself = errors.New("it ended by itself")

// keep runs f again, after a pause, whenever it fails, until ctx ends: a part
// that cannot go on (a hole in the log, an event that it does not know) must
// not take the others with it, and must not be silent. tell, if not nil, gets
// what made it fail, and nil once it has run for longer than it had to pause.
func keep(ctx context.Context, log *slog.Logger, name string, f func(context.Context) error, tell func(part string, err error)) {
	if tell == nil {
		tell = func(string, error) {}
	}
	outage := retry.New(log.With("component", name), slog.LevelError, "component failed, restarting")
	for pause := time.Duration(0); ; {
		well := time.AfterFunc(max(pause, time.Second), func() {
			outage.Over()
			tell(name, nil)
		})
		err := f(ctx)
		well.Stop()
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errEndedByItself
		}
		tell(name, err)
		pause = outage.Failed(err)
		if !retry.Sleep(ctx, pause) {
			return
		}
	}
}
