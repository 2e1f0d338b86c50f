package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
)

func (c *cli) logCommand() *cobra.Command {
	var (
		asJSON, follow bool
		since, until   string
		types          []string
		filter         eventlog.Filter
	)
	cmd := &cobra.Command{
		Use:   "log [--delivery ID] [--deployment SLUG] [--type TYPE] [--since TIME] [--until TIME] [--after POSITION] [--limit N] [--follow] [--json]",
		Short: "Print the events of the log",
		Long: `Prints the events of the log in order, a line each; filters combine. TIME is
2026-01-31, "2026-01-31 15:04", an RFC 3339 time, or how long ago: 90m, 30d.
With --limit the newest N are printed (the first N after --after or --since, where one is given).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			now := time.Now()
			for _, p := range []struct {
				s  string
				to *time.Time
			}{{since, &filter.Since}, {until, &filter.Until}} {
				if p.s == "" {
					continue
				}
				t, err := parseTime(p.s, now)
				if err != nil {
					return err
				}
				*p.to = t
			}
			for _, t := range types {
				if !eventlog.Known(eventlog.Type(t)) {
					return usagef("unknown event type %q; one of: %s", t, typeNames())
				}
				filter.Types = append(filter.Types, eventlog.Type(t))
			}
			if filter.Limit < 0 || filter.After < 0 {
				return usagef("--limit and --after take a number that is not negative")
			}
			if follow && (!filter.Until.IsZero() || filter.Limit > 0) {
				return usagef("--follow goes on until interrupted: leave out --until and --limit")
			}
			return c.withStore(cmd.Context(), func(_ *config.Config, store *daemon.Store) error {
				emit := c.eventPrinter(asJSON)
				if follow {
					return c.followLog(cmd.Context(), store.Log, filter, emit)
				}
				filter.Newest = filter.Limit > 0 && filter.After == 0 && filter.Since.IsZero()
				for e, err := range store.Log.Find(cmd.Context(), filter) {
					if err != nil {
						return err
					}
					if err := emit(e); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&filter.DeliveryID, "delivery", "", "only events of this delivery `ID`")
	f.StringVar(&filter.Deployment, "deployment", "", "only events of this deployment `SLUG`")
	f.StringSliceVar(&types, "type", nil, "only events of this `TYPE`; repeat or separate by commas")
	f.StringVar(&since, "since", "", "only events recorded at or after `TIME`")
	f.StringVar(&until, "until", "", "only events recorded before `TIME`")
	f.Int64Var(&filter.After, "after", 0, "only events after this `POSITION`")
	f.IntVar(&filter.Limit, "limit", 0, "at most `N` events")
	f.BoolVarP(&follow, "follow", "f", false, "go on printing events as they are appended, until interrupted")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// eventPrinter prints events as JSON lines or as the story's lines.
func (c *cli) eventPrinter(asJSON bool) func(eventlog.Event) error {
	p := painterFor(c.out)
	return func(e eventlog.Event) error {
		if asJSON {
			return writeJSON(c.out, e)
		}
		_, err := fmt.Fprintln(c.out, storyLine(e, p))
		return err
	}
}

// followLog prints what matches, from the start of the filter's range, until
// ctx ends, which is the ordinary end of --follow.
func (c *cli) followLog(ctx context.Context, log *eventlog.Log, filter eventlog.Filter, emit func(eventlog.Event) error) error {
	err := log.Follow(ctx, filter.After, func(_ context.Context, events []eventlog.Event) error {
		for _, e := range events {
			if !filter.Match(e) {
				continue
			}
			if err := emit(e); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func typeNames() string {
	s := ""
	for i, t := range eventlog.Types() {
		if i > 0 {
			s += ", "
		}
		s += string(t)
	}
	return s
}
