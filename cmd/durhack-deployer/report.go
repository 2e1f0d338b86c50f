package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/figures"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// The formats of `report`.
const (
	formatTable = "table"
	formatJSON  = "json"
	formatCSV   = "csv"
)

type reportOptions struct {
	since, until string
	deployment   string
	format       string
	json         bool
}

func (c *cli) reportCommand() *cobra.Command {
	var o reportOptions
	cmd := &cobra.Command{
		Use: "report [--since TIME] [--until TIME] [--deployment SLUG] [--format table|json|csv]", Short: "Count deploys, failures and how long they took",
		Long: `Prints a line for each deployment and one for all together, computed from the
log alone, for the period from --since (within it) to --until (not within it):

  DEPLOYS    runs that ended in the period with the commit live
  FAILURES   runs that ended in the period without. A run that was interrupted
             and tried again counts once, by the end of the retry
  RATE       FAILURES / (DEPLOYS + FAILURES)
  VOIDED     attempts that were voided in the period and so never ran
  LEAD TIME  from the push's arrival at the listener to the end of the first run
             that put it live there, of those that ended in the period. Deploys
             by hand have none; a replay counts only for what never was live
  WAIT       from the order (forwarded, redelivered or replayed) to the start of
             its first run, of those that started in the period
  LONGEST    the longest of the runs that ended in the period

Median and p90 are nearest ranks: the least duration that half, or nine tenths,
of them do not exceed. The line of all together is of all runs, not of the lines.`,
		Example: `  durhack-deployer report --since 30d
  durhack-deployer report --since 2026-01-01 --until 2026-02-01 --format csv`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.json {
				if cmd.Flags().Changed("format") && o.format != formatJSON {
					return usagef("--json is --format json: leave out one of them")
				}
				o.format = formatJSON
			}
			if !slices.Contains([]string{formatTable, formatJSON, formatCSV}, o.format) {
				return usagef("--format: unknown format %q; one of: table, json, csv", o.format)
			}
			var p figures.Period
			if err := parseTimes(time.Now(), timeFlag{"since", o.since, &p.Since}, timeFlag{"until", o.until, &p.Until}); err != nil {
				return err
			}
			if !p.Until.IsZero() && !p.Since.Before(p.Until) {
				return usagef("--since %s is not before --until %s", words.Clock(p.Since), words.Clock(p.Until))
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				slugs := cfg.Slugs()
				if o.deployment != "" {
					if err := knownDeployment(cmd.Context(), cfg, store, o.deployment); err != nil {
						return err
					}
				}
				made := figures.New(p, slugs, o.deployment)
				if err := count(cmd.Context(), store.Log, cfg.Instance, p, o.deployment, made); err != nil {
					return err
				}
				return c.printReport(made.Lines(), p, o.format)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.since, "since", "30d", "what ended at or after this "+timeUsage)
	f.StringVar(&o.until, "until", "", "what ended before this "+timeUsage)
	f.StringVar(&o.deployment, "deployment", "", "only this deployment `SLUG`")
	f.StringVar(&o.format, "format", formatTable, "`FORMAT`: table, json (an object a line) or csv")
	jsonFlag(cmd, &o.json)
	_ = cmd.RegisterFlagCompletionFunc("deployment", c.completeSlug) // fails only for a flag that is not there
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{formatTable, formatJSON, formatCSV}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// countedAtOnce is how many starts and ends of the period are counted at once, so that
// no more than their deliveries are in memory.
const countedAtOnce = 1000

// count counts what started or ended in the period. What ends in it may have come
// before it, so the deliveries are read from their beginning.
func count(ctx context.Context, log *eventlog.Log, instance string, p figures.Period, slug string, made *figures.Maker) error {
	of := eventlog.Filter{
		Instance: instance, Deployment: slug, Since: p.Since, Until: p.Until, Limit: countedAtOnce,
		Types: []eventlog.Type{eventlog.TypeStarted, eventlog.TypeDeployed, eventlog.TypeFailed, eventlog.TypeVoided},
	}
	for {
		var ids []string
		after := of.After
		for e, err := range log.Find(ctx, of) {
			if err != nil {
				return err
			}
			of.After, ids = e.Position, append(ids, e.DeliveryID)
		}
		if len(ids) == 0 {
			return nil
		}
		slices.Sort(ids)
		known := log.Find(ctx, eventlog.Filter{Instance: instance, DeliveryIDs: slices.Compact(ids)})
		state, err := projections.FoldAt(func(yield func(eventlog.Event, error) bool) {
			for e, err := range known {
				if e.Position > of.After || !yield(e, err) {
					return
				}
			}
		})
		if err != nil {
			return err
		}
		made.Add(state, instance, after, of.After)
	}
}

// knownDeployment refuses a slug that neither the configuration nor the log has.
func knownDeployment(ctx context.Context, cfg *config.Config, store *daemon.Store, slug string) error {
	found, err := daemon.Answers(cfg, store).Few(ctx, eventlog.Filter{Instance: cfg.Instance, Deployment: slug, Limit: 1})
	if err != nil || len(found) > 0 {
		return err
	}
	_, err = answer.Deployment(cfg, slug)
	return err
}

// reportRow is a line of `report --format json`, and of csv. Durations are null
// (empty in csv) where there is nothing to measure. Deployment is null for all.
type reportRow struct {
	Deployment       *string  `json:"deployment"`
	Deploys          int      `json:"deploys"`
	Failures         int      `json:"failures"`
	FailureRate      *float64 `json:"failure_rate"`
	Voided           int      `json:"voided"`
	LeadTimes        int      `json:"lead_times"`
	LeadTimeMedianMS *int64   `json:"lead_time_median_ms"`
	LeadTimeP90MS    *int64   `json:"lead_time_p90_ms"`
	Waits            int      `json:"queue_waits"`
	WaitMedianMS     *int64   `json:"queue_wait_median_ms"`
	WaitP90MS        *int64   `json:"queue_wait_p90_ms"`
	LongestMS        *int64   `json:"longest_ms"`
	LongestDelivery  *string  `json:"longest_delivery_id"`
}

func newReportRow(l figures.Line) reportRow {
	row := reportRow{
		Deploys: l.Deploys, Failures: l.Failures, Voided: l.Voided, LeadTimes: l.LeadTime.Count(), Waits: l.Wait.Count(),
		LeadTimeMedianMS: inMillis(l.LeadTime.Median()), LeadTimeP90MS: inMillis(l.LeadTime.P90()),
		WaitMedianMS: inMillis(l.Wait.Median()), WaitP90MS: inMillis(l.Wait.P90()),
	}
	if l.Deployment != "" {
		row.Deployment = &l.Deployment
	}
	if rate, ok := l.FailureRate(); ok {
		row.FailureRate = &rate
	}
	if l.Longest != nil {
		row.LongestMS = inMillis(l.Longest.EndedAt.Sub(l.Longest.StartedAt), true)
		row.LongestDelivery = &l.Longest.DeliveryID
	}
	return row
}

func inMillis(d time.Duration, ok bool) *int64 {
	if !ok {
		return nil
	}
	ms := d.Milliseconds()
	return &ms
}

func (c *cli) printReport(lines []figures.Line, p figures.Period, format string) error {
	switch format {
	case formatJSON:
		for _, l := range lines {
			if err := writeJSON(c.out, newReportRow(l)); err != nil {
				return err
			}
		}
		return nil
	case formatCSV:
		return c.reportCSV(lines)
	}
	until := "now"
	if !p.Until.IsZero() {
		until = words.Clock(p.Until)
	}
	if _, err := fmt.Fprintf(c.out, "from %s to %s:\n", words.Clock(p.Since), until); err != nil {
		return err
	}
	t := c.newTable(column{name: "DEPLOYMENT"}, column{name: "DEPLOYS"}, column{name: "FAILURES"}, column{name: "RATE"}, column{name: "VOIDED", drop: 3},
		column{name: "LEAD TIME"}, column{name: "P90", drop: 2}, column{name: "WAIT", drop: 1}, column{name: "P90", drop: 5},
		column{name: "LONGEST", drop: 4}, column{name: "OF DELIVERY", id: true, drop: 6})
	for _, l := range lines {
		row := newReportRow(l)
		name, rate, longest := l.Deployment, "-", "-"
		if name == "" {
			name = "(all)"
		}
		if row.FailureRate != nil {
			rate = fmt.Sprintf("%.1f%%", 100**row.FailureRate)
		}
		if row.LongestDelivery != nil {
			longest = *row.LongestDelivery
		}
		t.row(name, strconv.Itoa(row.Deploys), strconv.Itoa(row.Failures), rate, strconv.Itoa(row.Voided),
			orMillis(row.LeadTimeMedianMS), orMillis(row.LeadTimeP90MS), orMillis(row.WaitMedianMS), orMillis(row.WaitP90MS),
			orMillis(row.LongestMS), longest)
	}
	return t.flush()
}

// reportCSV writes the rows as RFC 4180 has it, with the keys of the JSON as
// the header. Slugs and delivery IDs hold nothing that a spreadsheet would run:
// both are checked where they come in.
func (c *cli) reportCSV(lines []figures.Line) error {
	w := csv.NewWriter(c.out)
	_ = w.Write([]string{ // an error stays with the writer
		"deployment", "deploys", "failures", "failure_rate", "voided", "lead_times", "lead_time_median_ms", "lead_time_p90_ms",
		"queue_waits", "queue_wait_median_ms", "queue_wait_p90_ms", "longest_ms", "longest_delivery_id",
	})
	for _, l := range lines {
		r := newReportRow(l)
		rate := ""
		if r.FailureRate != nil {
			rate = strconv.FormatFloat(*r.FailureRate, 'f', -1, 64)
		}
		_ = w.Write([]string{ // an error stays with the writer
			orEmpty(r.Deployment), strconv.Itoa(r.Deploys), strconv.Itoa(r.Failures), rate, strconv.Itoa(r.Voided),
			strconv.Itoa(r.LeadTimes), number(r.LeadTimeMedianMS), number(r.LeadTimeP90MS),
			strconv.Itoa(r.Waits), number(r.WaitMedianMS), number(r.WaitP90MS), number(r.LongestMS), orEmpty(r.LongestDelivery),
		})
	}
	w.Flush()
	return w.Error()
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return printable(*s)
}

func number(n *int64) string {
	if n == nil {
		return ""
	}
	return strconv.FormatInt(*n, 10)
}
