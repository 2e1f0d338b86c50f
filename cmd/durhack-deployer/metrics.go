package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/metrics"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/projections"
)

func (c *cli) metricsCommand() *cobra.Command {
	return group("metrics", "Give Prometheus the graphs of the past", c.metricsExportCommand())
}

type metricsExportOptions struct {
	since, until string
	step         time.Duration
	labels       map[string]string
}

// mostSamples bounds the steps of an export: a year of five minutes has 105,120.
const mostSamples = 200_000

// labelName is what Prometheus takes as the name of a label.
var labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

func (c *cli) metricsExportCommand() *cobra.Command {
	o := metricsExportOptions{labels: map[string]string{}}
	cmd := &cobra.Command{
		Use: "export [--since TIME] [--until TIME] [--step DURATION] [--label NAME=VALUE]...", Short: "Write the metrics of the past, from the log, as OpenMetrics",
		Long: `Prints what /metrics would have shown of the log in the period from --since to
--until, had Prometheus asked at every --step: counts of deploys, voids and
deliveries, and histograms of how long they took, each with its time. Counts are
those from the beginning of the log. The output is OpenMetrics, which ends in
"# EOF"; promtool makes blocks of it that go into Prometheus' data directory.
--label adds a label to every sample: give those that Prometheus adds to what it
collects, so that the graphs go on without a break.`,
		Example: `  durhack-deployer metrics export --since 90d --label job=durhack-deployer --label instance=127.0.0.1:3401 > past.om
  promtool tsdb create-blocks-from openmetrics past.om /var/lib/prometheus/metrics2`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s := metrics.Span{Until: time.Now(), Step: o.step, Labels: o.labels}
			if err := parseTimes(time.Now(), timeFlag{"since", o.since, &s.Since}, timeFlag{"until", o.until, &s.Until}); err != nil {
				return err
			}
			switch {
			case !s.Since.Before(s.Until):
				return usagef("--since %s is not before --until %s", words.Clock(s.Since), words.Clock(s.Until))
			case s.Step < time.Second:
				return usagef("--step %s is less than a second", s.Step)
			case s.Until.Sub(s.Since)/s.Step > mostSamples:
				return usagef("--step %s makes more than %d samples of each series from --since to --until: make it longer", s.Step, mostSamples)
			}
			for name := range o.labels {
				if !labelName.MatchString(name) || strings.HasPrefix(name, "__") { // which Prometheus keeps for itself
					return usagef("--label: %q is not the name of a label: letters, digits and underscores, beginning with neither a digit nor two underscores", name)
				}
				if slices.Contains(metrics.LabelNames, name) {
					return usagef("--label: the metrics have a label %s already", name)
				}
			}
			return c.withStore(cmd.Context(), func(cfg *config.Config, store *daemon.Store) error {
				return c.exportMetrics(cmd.Context(), cfg, store, s)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.since, "since", "90d", "from this "+timeUsage)
	f.StringVar(&o.until, "until", "", "to this "+timeUsage)
	f.DurationVar(&o.step, "step", 15*time.Minute, "a sample of each series every `DURATION`")
	f.StringToStringVar(&o.labels, "label", nil, "add the label `NAME=VALUE` to each sample; repeat for several")
	return cmd
}

func (c *cli) exportMetrics(ctx context.Context, cfg *config.Config, store *daemon.Store, s metrics.Span) error {
	known, err := projections.New(store.Pool, store.Log, discard()).Deployments(ctx, cfg.Instance)
	if err != nil {
		return err
	}
	slugs := cfg.Slugs()
	for _, d := range known { // that the configuration had once
		if names.Slug(d.Slug) && !slices.Contains(slugs, d.Slug) {
			slugs = append(slugs, d.Slug)
		}
	}
	events := store.Log.Find(ctx, eventlog.Filter{Instance: cfg.Instance, Until: s.Until})
	w := bufio.NewWriter(c.out)
	if err := errors.Join(metrics.Export(ctx, w, events, cfg.Instance, slugs, s), w.Flush()); err != nil {
		return fmt.Errorf("export the metrics: %w", err)
	}
	return nil
}
