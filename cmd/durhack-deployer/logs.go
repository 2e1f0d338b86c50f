package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/router"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

type logsOptions struct {
	deployment   string
	attempt      int
	follow, json bool
	routed       bool // what was in the main queue was waited for
}

// logLine is a line of `logs --json`.
type logLine struct {
	Deployment string `json:"deployment"`
	DeliveryID string `json:"delivery_id"`
	Attempt    int    `json:"attempt"`
	Line       string `json:"line"`
}

func (c *cli) logsCommand() *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use: "logs (SLUG | DELIVERY) [--deployment SLUG] [--attempt N] [--follow] [--json]", Short: "Print the run log of a deployment or a delivery",
		Long: `Prints what the steps of a run printed: of the newest run of a deployment or of a
delivery, or of the attempt that --attempt names. A delivery that ran at several
deployments needs --deployment. Which run it is, how it ended and where its file is
are said on standard error.

--follow goes on printing until the run ends, and waits for the run where one is
waiting, also while its delivery is still in the main queue. The files are on the host
that ran the deploy, and are kept as long as [retention] run_logs says (90 days, by
default); the log itself ("why") has the last lines of a step that failed.`,
		Example: `  durhack-deployer logs web --follow
  durhack-deployer logs 72d3162e --attempt 1`,
		Args: takes("SLUG or DELIVERY"), ValidArgsFunction: c.completeSlug,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("attempt") && o.attempt < 1 {
				return usagef("--attempt takes a number from 1 on, not %d", o.attempt)
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				return c.logs(cmd.Context(), cfg, store, args[0], o)
			})
		},
	}
	cmd.Flags().StringVar(&o.deployment, "deployment", "", "of a delivery, the run at this deployment `SLUG`")
	cmd.Flags().IntVar(&o.attempt, "attempt", 0, "the attempt `N` instead of the newest")
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on until the run ends")
	_ = cmd.RegisterFlagCompletionFunc("deployment", c.completeSlug) // fails only for a flag that is not there
	jsonFlag(cmd, &o.json)
	return cmd
}

func (c *cli) logs(ctx context.Context, cfg *config.Config, store *daemon.Store, what string, o logsOptions) error {
	filter := eventlog.Filter{Instance: cfg.Instance, Deployment: o.deployment, Types: []eventlog.Type{eventlog.TypeStarted}}
	if cfg.Deployments[what] != nil && o.deployment == "" {
		filter.Deployment = what
	} else {
		head, err := store.Log.Head(ctx)
		if err != nil {
			return err
		}
		filter.DeliveryID, err = daemon.Answers(cfg, store).DeliveryID(ctx, what)
		unknown, ok := answer.IsUnknownDelivery(err)
		switch {
		case ok && o.follow && o.attempt == 0 && unknown.Unrouted != nil && unknown.Unrouted.Reason == "":
			filter.DeliveryID = unknown.Unrouted.DeliveryID
			fmt.Fprintf(c.err, "delivery %s %s\n", filter.DeliveryID, printable(unknown.Unrouted.Why(daemon.Answers(cfg, store).NotRouted(ctx))))
			itsEvents := eventlog.Filter{Instance: cfg.Instance, DeliveryID: filter.DeliveryID}
			if routed, err := await(ctx, store, head, itsEvents.Match); err != nil || routed == nil {
				return err
			}
		case ok && o.deployment == "":
			return c.logsOfRemoved(ctx, cfg, store, filter, what, err, o)
		case err != nil:
			return err
		}
	}
	return c.logsOf(ctx, cfg, store, filter, what, o)
}

// logsOfRemoved prints the run log of a deployment that is not configured any more.
func (c *cli) logsOfRemoved(ctx context.Context, cfg *config.Config, store *daemon.Store, filter eventlog.Filter, slug string, unknown error, o logsOptions) error {
	filter.Deployment, filter.Newest, filter.Limit = slug, true, 1
	found, err := daemon.Answers(cfg, store).Few(ctx, filter)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return &hintedError{fmt.Errorf("%w, and there is no deployment of that name", unknown), hint(unknown)}
	}
	filter.Newest, filter.Limit = false, 0
	return c.logsOf(ctx, cfg, store, filter, slug, o)
}

// logsOf prints the run log of the newest run that the filter finds, or of the attempt.
func (c *cli) logsOf(ctx context.Context, cfg *config.Config, store *daemon.Store, filter eventlog.Filter, what string, o logsOptions) error {
	head, err := store.Log.Head(ctx)
	if err != nil {
		return err
	}
	run, others, err := newestRun(ctx, store, filter, o.attempt)
	if err != nil {
		return err
	}
	if len(others) > 1 {
		return usagef("delivery %s ran at %s: choose one with --deployment SLUG", filter.DeliveryID, strings.Join(others, ", "))
	}
	var end *eventlog.Event
	if run != nil {
		if end, err = endOf(ctx, store, *run); err != nil {
			return err
		}
	}
	if o.follow && o.attempt == 0 && (run == nil || end != nil) {
		if filter.DeliveryID == "" && !o.routed {
			o.routed = true // once: others come behind them
			if waited, err := c.untilRouted(ctx, cfg, store, head); err != nil || ctx.Err() != nil {
				return err
			} else if waited {
				return c.logsOf(ctx, cfg, store, filter, what, o)
			}
		}
		waits, err := somethingWaits(ctx, cfg, store, filter)
		if err != nil {
			return err
		}
		if waits {
			fmt.Fprintf(c.err, "waiting for the run of %s to start\n", printable(what))
			if filter.DeliveryID != "" { // it may be voided instead
				filter.Types = append(filter.Types, eventlog.TypeVoided)
			}
			if run, err = await(ctx, store, head, filter.Match); err != nil || run == nil {
				return err
			}
			if end = nil; run.Type == eventlog.TypeVoided {
				run = nil
			}
		} else if latest, _, err := newestRun(ctx, store, filter, 0); err != nil {
			return err
		} else if latest != nil && latest.Position > head { // it waited, and has begun since
			run, end = latest, nil
		}
	}
	switch {
	case run == nil && o.attempt > 0:
		return fmt.Errorf("%s has no attempt %d that ran; `%s` lists the attempts of a delivery", what, o.attempt, c.command("why", "DELIVERY"))
	case run == nil && filter.DeliveryID == "":
		return &hintedError{fmt.Errorf("no deploys of %s yet", what), "`" + c.command("status", what) + "` says whether one waits"}
	case run == nil:
		return &hintedError{fmt.Errorf("delivery %s did not run", filter.DeliveryID), "`" + c.command("why", filter.DeliveryID) + "` says why"}
	}
	return c.printRun(ctx, cfg, store, *run, end, o)
}

// newestRun is the started event of the newest run, or of the attempt; nil where
// there is none. others are the deployments, where a delivery ran at several.
func newestRun(ctx context.Context, store *daemon.Store, filter eventlog.Filter, attempt int) (run *eventlog.Event, others []string, err error) {
	if attempt == 0 && filter.Deployment != "" {
		filter.Newest, filter.Limit = true, 1
	}
	for e, err := range store.Log.Find(ctx, filter) {
		if err != nil {
			return nil, nil, err
		}
		if filter.Deployment == "" && !slices.Contains(others, e.DeploymentSlug()) {
			others = append(others, e.DeploymentSlug())
		}
		if attempt == 0 || e.Attempt == attempt {
			run = &e
		}
	}
	return run, others, nil
}

// runEnds are the types of events that end a run.
var runEnds = []eventlog.Type{eventlog.TypeDeployed, eventlog.TypeFailed, eventlog.TypeInterrupted, eventlog.TypeVoided}

// endFilter finds the end of a run.
func endFilter(run eventlog.Event) eventlog.Filter {
	return eventlog.Filter{
		Instance: run.Instance, DeliveryID: run.DeliveryID, Deployment: run.DeploymentSlug(), After: run.Position, Types: runEnds,
	}
}

// endOf is the event that ended a run; nil where it has not ended.
func endOf(ctx context.Context, store *daemon.Store, run eventlog.Event) (*eventlog.Event, error) {
	for e, err := range store.Log.Find(ctx, endFilter(run)) {
		if err != nil {
			return nil, err
		}
		if e.Attempt == run.Attempt {
			return &e, nil
		}
	}
	return nil, nil
}

// untilRouted waits for the deliveries of the main queue to be in the log, which nobody
// knows the deployments of before.
func (c *cli) untilRouted(ctx context.Context, cfg *config.Config, store *daemon.Store, head int64) (waited bool, err error) {
	source := daemon.Answers(cfg, store)
	rows, err := answer.QueueEntries(cfg, names.MainQueue)
	if err != nil {
		return false, err
	}
	waiting := map[string]bool{}
	for _, r := range rows {
		if r.Reason == "" {
			waiting[r.DeliveryID] = true
		}
	}
	if len(waiting) == 0 {
		return false, nil
	}
	known, err := source.DeliveriesOf(ctx, slices.Collect(maps.Keys(waiting)))
	for id := range known { // or it is a redelivery, which says nothing new
		delete(waiting, id)
	}
	if err != nil || len(waiting) == 0 {
		return false, err
	}
	fmt.Fprintf(c.err, "%s in the main queue to be routed: %s\n", words.Counted(int64(len(waiting)), "delivery waits", "deliveries wait"), printable(source.NotRouted(ctx)))
	_, err = await(ctx, store, head, func(e eventlog.Event) bool {
		delete(waiting, e.DeliveryID)
		return len(waiting) == 0
	})
	return true, err
}

// somethingWaits says whether a run of the deployment or the delivery is to come.
func somethingWaits(ctx context.Context, cfg *config.Config, store *daemon.Store, filter eventlog.Filter) (bool, error) {
	if filter.DeliveryID == "" {
		// Not the read models alone, which may be behind.
		state, err := projections.New(store.Pool, store.Log, discard()).Resume(ctx, cfg.Instance)
		if err != nil {
			return false, err
		}
		for e, err := range store.Log.Find(ctx, eventlog.Filter{Instance: cfg.Instance, After: state.Position()}) {
			if err == nil {
				err = state.Apply(&e)
			}
			if err != nil {
				return false, err
			}
		}
		return slices.ContainsFunc(state.Deployments(cfg.Instance), func(d projections.Deployment) bool {
			return d.Slug == filter.Deployment && d.Pending > 0
		}), nil
	}
	events, err := daemon.Answers(cfg, store).Delivery(ctx, filter.DeliveryID)
	if err != nil {
		return false, err
	}
	state, err := router.Fold(events)
	if err != nil || filter.Deployment == "" {
		return err == nil && state.Pending(), err
	}
	return state.Parts[filter.Deployment].Status == router.StatusWaiting, nil
}

// await waits for an event; nil where it is interrupted, which is the ordinary end
// of --follow.
func await(ctx context.Context, store *daemon.Store, after int64, want func(eventlog.Event) bool) (*eventlog.Event, error) {
	var event *eventlog.Event
	found := errors.New("found")
	err := store.Log.Follow(ctx, after, func(_ context.Context, events []eventlog.Event) error {
		for _, e := range events {
			if want(e) {
				event = &e
				return found
			}
		}
		return nil
	})
	if errors.Is(err, found) || errors.Is(err, context.Canceled) {
		err = nil
	}
	return event, err
}

// lookForMore is how often a run log is looked at for what was added.
const lookForMore = 100 * time.Millisecond

// printRun prints the run log, and with --follow what is added until the run ends.
func (c *cli) printRun(ctx context.Context, cfg *config.Config, store *daemon.Store, run eventlog.Event, end *eventlog.Event, o logsOptions) error {
	slug := run.DeploymentSlug()
	name := fmt.Sprintf("the run log of %s, delivery %s, attempt %d", slug, run.DeliveryID, run.Attempt)
	dir, file := filepath.Join(cfg.StateDir, "runs"), filepath.Join(slug, handlers.RunLogName(run.DeliveryID, run.Attempt))
	state := "running since " + words.Clock(run.RecordedAt)
	if end != nil {
		state = fmt.Sprintf("%s at %s", end.Type, words.Clock(end.RecordedAt))
	}
	fmt.Fprintf(c.err, "%s (%s): %s\n", printable(name), state, printable(filepath.Join(dir, file)))

	ended := make(chan struct{})
	if o.follow && end == nil {
		ctx, stop := context.WithCancel(ctx)
		watched := make(chan struct{})
		var err error
		go func() {
			defer close(watched)
			defer close(ended)
			filter := endFilter(run)
			end, err = await(ctx, store, run.Position, func(e eventlog.Event) bool { return filter.Match(e) && e.Attempt == run.Attempt })
		}()
		defer func() {
			stop()
			<-watched
		}()
		if printErr := c.printFile(ctx, dir, file, ended, run, o); printErr != nil {
			return c.goneLog(cfg, printErr, name, filepath.Join(dir, file), run)
		}
		<-watched // printFile goes on until then, unless it is interrupted
		if err != nil || end == nil {
			return err
		}
		fmt.Fprintf(c.err, "%s: %s\n", end.Type, printable(answer.Summary(*end)))
		return nil
	}
	close(ended)
	return c.goneLog(cfg, c.printFile(ctx, dir, file, ended, run, o), name, filepath.Join(dir, file), run)
}

// goneLog says where a run log was that is not there.
func (c *cli) goneLog(cfg *config.Config, err error, name, path string, run eventlog.Event) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	data, decodeErr := run.Decode()
	started, _ := data.(eventlog.Started)
	host, hostErr := os.Hostname()
	if decodeErr == nil && hostErr == nil && started.Host != host {
		return &hintedError{fmt.Errorf("%s is not here: it was run on %s", name, started.Host), fmt.Sprintf("there it is %s", started.RunLog)}
	}
	if kept := cfg.Retention.RunLogs; kept > 0 && time.Since(run.RecordedAt) > kept {
		return &hintedError{
			fmt.Errorf("%s is gone: it is older than [retention] run_logs, %s (%s)", name, inDays(kept), path),
			"`" + c.command("why", run.DeliveryID) + "` has how it ended, and the last lines of a step that failed",
		}
	}
	return &hintedError{
		fmt.Errorf("%s is gone: %s was deleted, or could not be written", name, path),
		"`" + c.command("why", run.DeliveryID) + "` has the last lines of a step that failed",
	}
}

func inDays(d time.Duration) string {
	const day = 24 * time.Hour
	if d%day != 0 {
		return d.String()
	}
	return words.Counted(int64(d/day), "day", "days")
}

// printFile prints the lines of a file below dir until ended is closed and all of
// it was printed. Before that, the file may be still to come. It leaves dir by no
// name or link: what is in the log need not be trusted with root's eyes.
func (c *cli) printFile(ctx context.Context, dir, name string, ended <-chan struct{}, run eventlog.Event, o logsOptions) error {
	emit := func(line string) error {
		if o.json {
			return writeJSON(c.out, logLine{run.DeploymentSlug(), run.DeliveryID, run.Attempt, line})
		}
		_, err := fmt.Fprintln(c.out, printableLines(line))
		return err
	}
	more := time.NewTicker(lookForMore)
	defer more.Stop()
	var file *os.File
	var lines *bufio.Reader
	var partial string
	for last := false; ; {
		select {
		case <-ended:
			last = true
		default:
		}
		if file == nil {
			f, err := os.OpenInRoot(dir, name)
			if err != nil && (last || !errors.Is(err, fs.ErrNotExist)) {
				return fmt.Errorf("open the run log: %w", err)
			}
			if err == nil {
				defer f.Close()
				file, lines = f, bufio.NewReader(f)
			}
		}
		for file != nil {
			text, err := lines.ReadString('\n')
			partial += text
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("read the run log: %w", err)
			}
			if err := emit(strings.TrimSuffix(partial, "\n")); err != nil {
				return err
			}
			partial = ""
		}
		if last {
			if partial == "" {
				return nil
			}
			return emit(partial)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
		case <-more.C:
		}
	}
}
