package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
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
		Use:   "log [FILTER...] [--follow] [--json]",
		Short: "Print the events of the log",
		Long: `Prints the events of the log in order, a line each: position, time, type,
deployment, what happened, and the delivery with its attempt if it is not the
first; and the instance, where several share the log. Without a filter
they are the newest 50, or with --json all. Filters combine. --limit prints the newest N, or the first N after --after or --since where one is given.
--follow begins with the newest ten, or as many as --limit says, or with all from
--after or --since on. "log export" and "log import" carry a log from one database
to another.`,
		Example: `  durhack-deployer log --limit 20
  durhack-deployer log --type failed,interrupted --since 7d
  durhack-deployer log --deployment web --follow
  durhack-deployer log --json --after 1200 | jq -r .delivery_id`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := parseTimes(time.Now(), timeFlag{"since", since, &filter.Since}, timeFlag{"until", until, &filter.Until})
			if err != nil {
				return err
			}
			for _, t := range types {
				if !eventlog.Known(eventlog.Type(t)) {
					return usagef("--type: unknown event type %q; one of: %s", t, eventlog.TypeNames())
				}
				filter.Types = append(filter.Types, eventlog.Type(t))
			}
			if cmd.Flags().Changed("limit") && filter.Limit < 1 {
				return usagef("--limit takes a number from 1 on, not %d", filter.Limit)
			}
			if filter.After < 0 {
				return usagef("--after takes a position, from 0 on, not %d", filter.After)
			}
			if follow && !filter.Until.IsZero() {
				return usagef("--follow goes on until interrupted: leave out --until")
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				instances := []string{filter.Instance}
				if filter.Instance == "" {
					if instances, err = store.Log.Instances(cmd.Context()); err != nil {
						return err
					}
				}
				if err := logDelivery(cmd.Context(), cfg, store, instances, &filter); err != nil {
					return err
				}
				emit := c.eventPrinter(newStory(painterFor(c.out), cfg.Slugs(), false).ofInstances(instances), asJSON)
				if follow {
					took, err := daemon.Answers(cfg, store).Durations(cmd.Context(), "")
					if err != nil {
						return err
					}
					saw, stop := c.tellRuns(cmd.Context(), cfg, took)
					defer stop()
					print := emit
					emit = func(e eventlog.Event) error {
						saw(e)
						return print(e)
					}
					return followLog(cmd.Context(), store.Log, filter, emit)
				}
				bare := !asJSON && filter.Limit == 0 && filter.After == 0 && filter.Since.IsZero() && filter.Until.IsZero() &&
					filter.Instance+filter.DeliveryID+filter.Deployment == "" && len(filter.Types) == 0
				if bare {
					filter.Limit = newestShown
				}
				filter.Newest = filter.Limit > 0 && filter.After == 0 && filter.Since.IsZero()
				last, err := printEvents(cmd.Context(), store.Log, filter, emit)
				if err != nil {
					return err
				}
				if bare && last > newestShown {
					fmt.Fprintf(c.err, "hint: these are the newest %d; --limit N shows more, --since TIME all from then on\n", newestShown)
				}
				if last == 0 && !asJSON { // or a slip in a name is taken for a quiet night
					fmt.Fprintln(c.err, "no event matches")
				}
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&filter.Instance, "instance", "", "only events of this instance `NAME` (default: of all that share the log)")
	f.StringVar(&filter.DeliveryID, "delivery", "", "only events of this delivery `ID`")
	f.StringVar(&filter.Deployment, "deployment", "", "only events of this deployment `SLUG`")
	f.StringSliceVar(&types, "type", nil, "only events of this `TYPE`; repeat or separate by commas")
	f.StringVar(&since, "since", "", "only events recorded at or after this "+timeUsage)
	f.StringVar(&until, "until", "", "only events recorded before this "+timeUsage)
	f.Int64Var(&filter.After, "after", 0, "only events after this `POSITION`")
	f.IntVar(&filter.Limit, "limit", 0, "at most `N` events")
	f.BoolVarP(&follow, "follow", "f", false, "go on printing events as they are appended, until interrupted")
	jsonFlag(cmd, &asJSON)
	cmd.AddCommand(c.logExportCommand(), c.logImportCommand())
	_ = cmd.RegisterFlagCompletionFunc("deployment", c.completeSlug) // fails only for a flag that is not there
	_ = cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(strings.Split(eventlog.TypeNames(), ", "), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// logDelivery makes the beginning of a delivery's ID the whole. One that is not
// there is no error: the log may be followed until it is.
func logDelivery(ctx context.Context, cfg *config.Config, store *daemon.Store, instances []string, filter *eventlog.Filter) error {
	if filter.DeliveryID == "" {
		return nil
	}
	id, err := daemon.Answers(cfg, store).DeliveryOf(ctx, instances, filter.DeliveryID)
	if _, unknown := answer.IsUnknownDelivery(err); unknown {
		return nil
	}
	if err == nil {
		filter.DeliveryID = id
	}
	return err
}

// printEvents prints what the filter finds, and returns the last position of it,
// or 0 where there is nothing.
func printEvents(ctx context.Context, log *eventlog.Log, filter eventlog.Filter, emit func(eventlog.Event) error) (last int64, err error) {
	for e, err := range log.Find(ctx, filter) {
		if err != nil {
			return last, err
		}
		if err := emit(e); err != nil {
			return last, err
		}
		last = e.Position
	}
	return last, nil
}

// newestShown is how many events are printed where nobody says which.
const newestShown = 50

// newestFollowed is how many events --follow begins with.
const newestFollowed = 10

// followLog prints what there is of the filter's range, or the newest of all, and
// then what is appended, until ctx ends, which is the ordinary end of --follow.
func followLog(ctx context.Context, log *eventlog.Log, filter eventlog.Filter, emit func(eventlog.Event) error) error {
	if filter.Limit == 0 && filter.After == 0 && filter.Since.IsZero() {
		filter.Limit = newestFollowed
	}
	filter.Newest = filter.Limit > 0
	after, err := log.Head(ctx) // before the question, so that nothing comes between
	if err == nil {
		var last int64
		last, err = printEvents(ctx, log, filter, emit)
		after = max(after, last, filter.After)
	}
	if err == nil {
		err = log.Follow(ctx, after, func(_ context.Context, events []eventlog.Event) error {
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
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
