package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/config"
)

// The exit codes are part of the contract.
const (
	exitDone  = 0
	exitError = 1
	exitUsage = 2
)

// sameSignal is how soon a second signal is still the first one.
const sameSignal = 300 * time.Millisecond

type streams struct {
	in       io.Reader
	out, err io.Writer
}

// cli is what every verb shares.
type cli struct {
	streams
	configPaths []string
	verbose     bool
}

// run is the whole program but os.Exit. The first SIGINT or SIGTERM ends the
// context, so that the verb drains; a second one gives up at once.
func run(args []string, s streams) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)

	done := make(chan error, 1)
	go func() { done <- newRoot(s, args).ExecuteContext(ctx) }()
	var first time.Time
	for {
		select {
		case err := <-done:
			return report(s.err, err)
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
			return exitError
		}
	}
}

func newRoot(s streams, args []string) *cobra.Command {
	c := &cli{streams: s}
	root := &cobra.Command{
		Use:   "durhack-deployer",
		Short: "Deploy apps when they are pushed to GitHub, and say what is live and why",
		Long: `durhack-deployer deploys a team's apps when they push to GitHub, and answers
what is live, who put it there, when, and why a push did or did not deploy.

Try it:        durhack-deployer demo
Run it:        durhack-deployer serve
Ask it:        durhack-deployer status | log | why DELIVERY

Without --config, the *.toml files of /etc/durhack-deployer/ are read, or else
those of ./config/. Exit codes: 0 done, 1 it failed, 2 the call was wrong.`,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				_ = cmd.Help()
				return usagef("say what to do: one of the commands above")
			}
			msg := fmt.Sprintf("unknown command %q", args[0])
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				msg += fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
			}
			return usagef("%s", msg)
		},
	}
	root.SetArgs(args)
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.PersistentFlags().StringArrayVar(&c.configPaths, "config", nil, "configuration `FILE` or directory; repeat to merge several, later ones win")
	root.PersistentFlags().BoolVarP(&c.verbose, "verbose", "v", false, "say more on standard error")
	root.CompletionOptions.DisableDescriptions = false

	root.AddCommand(
		c.serveCommand(), c.listenCommand(), c.workCommand(), c.demoCommand(), c.migrateCommand(),
		c.statusCommand(), c.logCommand(), c.whyCommand(), c.deployCommand(), c.replayCommand(),
		c.queueCommand(), c.projectionsCommand(), c.verifyCommand(), c.configCommand(), c.planCommand(),
		c.versionCommand(),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(args...)
	for _, cmd := range allCommands(root) {
		cmd.DisableFlagsInUseLine = true
		if cmd.Args != nil {
			check := cmd.Args
			cmd.Args = func(cmd *cobra.Command, args []string) error {
				if err := check(cmd, args); err != nil {
					return &usageError{fmt.Errorf("%w; usage: %s", err, cmd.UseLine())}
				}
				return nil
			}
		}
	}
	return root
}

func allCommands(root *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{}
	for _, cmd := range root.Commands() {
		all = append(all, cmd)
		all = append(all, allCommands(cmd)...)
	}
	return all
}

// group makes a command that only holds others: called bare, or with a word
// that is none of them, it is a wrong call.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs}
	cmd.AddCommand(subs...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		names := []string{}
		for _, sub := range subs {
			names = append(names, sub.Name())
		}
		if len(args) > 0 {
			return usagef("unknown command %q for %q; one of: %s", args[0], cmd.CommandPath(), strings.Join(names, ", "))
		}
		return usagef("%q needs one of: %s", cmd.CommandPath(), strings.Join(names, ", "))
	}
	return cmd
}

// config loads the configuration that --config names, or the default one.
func (c *cli) config() (*config.Config, error) {
	paths := c.configPaths
	if len(paths) == 0 {
		if paths = config.DefaultPaths(); len(paths) == 0 {
			return nil, &hintedError{
				err:  fmt.Errorf("no configuration: /etc/durhack-deployer/ and ./config/ have no *.toml file"),
				hint: "name one with --config FILE; `durhack-deployer demo` needs none",
			}
		}
	}
	return config.Load(paths, os.Getenv)
}

// logger writes to standard error: text for a terminal or a file, and without
// time stamps under systemd, whose journal has its own.
func (c *cli) logger(level slog.Level) *slog.Logger {
	if c.verbose {
		level = slog.LevelDebug
	}
	opts := &slog.HandlerOptions{Level: level}
	if os.Getenv("JOURNAL_STREAM") != "" {
		opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(slog.NewTextHandler(c.err, opts))
}

// parseTime reads what people type for a moment: RFC 3339, a local date, a
// local date and time, or how long ago ("90m", "30d").
func parseTime(s string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int
		if _, err := fmt.Sscanf(days+" ", "%d ", &n); err == nil && n >= 0 && fmt.Sprint(n) == days {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, usagef("%q is not a time; write 2026-01-31, \"2026-01-31 15:04\", 2026-01-31T15:04:05Z, or how long ago: 90m, 30d", s)
}
