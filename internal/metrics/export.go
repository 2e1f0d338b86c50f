package metrics

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/proto"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/projections"
)

// Span is what an export is about: from Since to Until, with a sample of each series
// at each Step.
type Span struct {
	Since, Until time.Time
	Step         time.Duration
	// Labels are added to each sample, as Prometheus adds those of a target.
	Labels map[string]string
}

// sample is a series as it was from a time on, until the next one.
type sample struct {
	at     time.Time
	metric *dto.Metric
}

// series are the samples of each series of a family, by its labels.
type series struct {
	family *dto.MetricFamily
	points map[string][]sample
}

// Export writes what a Tally of the log shows at each step of the span, as OpenMetrics
// with timestamps (https://openmetrics.io), which `promtool tsdb create-blocks-from
// openmetrics` reads. The events are the log from its beginning: what the counters show
// is counted from there. Only changes are held in memory. A series begins when it has
// something to show.
func Export(ctx context.Context, w io.Writer, events iter.Seq2[eventlog.Event, error], instance string, slugs []string, s Span) error {
	t := NewTally(instance, slugs, projections.NewState(), time.Time{})
	registry := prometheus.NewRegistry()
	if err := registry.Register(t); err != nil {
		return err
	}
	made := map[string]*series{}
	at := s.Since
	for e, err := range events {
		if err != nil {
			return err
		}
		if e.RecordedAt.After(s.Until) {
			break
		}
		// The sample of a step has what was recorded up to it.
		if e.RecordedAt.After(at) {
			if err := take(registry, at, made); err != nil {
				return err
			}
		}
		if late := e.RecordedAt.Sub(at); late > 0 {
			at = at.Add((late + s.Step - 1) / s.Step * s.Step)
		}
		if err := t.Apply(&e); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if at.After(s.Until) { // the last step is not over
		at = s.Until
	}
	if err := take(registry, at, made); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(made)) {
		if err := made[name].write(w, s); err != nil {
			return err
		}
	}
	_, err := expfmt.FinalizeOpenMetrics(w)
	return err
}

// take notes the series that are not as they were.
func take(from prometheus.Gatherer, at time.Time, made map[string]*series) error {
	families, err := from.Gather()
	if err != nil {
		return err
	}
	for _, f := range families {
		of := made[f.GetName()]
		if of == nil {
			of = &series{&dto.MetricFamily{Name: f.Name, Help: f.Help, Type: f.Type}, map[string][]sample{}}
			made[f.GetName()] = of
		}
		for _, m := range f.Metric {
			key := labelsOf(m)
			points := of.points[key]
			if len(points) == 0 && m.GetCounter().GetValue() == 0 && m.GetHistogram().GetSampleCount() == 0 {
				continue
			}
			if len(points) == 0 || !proto.Equal(points[len(points)-1].metric, m) {
				of.points[key] = append(points, sample{at, m})
			}
		}
	}
	return nil
}

// write writes a family: its header, then its series one after the other, each with its
// samples in the order of time, as the format wants it.
func (of *series) write(w io.Writer, s Span) error {
	if len(of.points) == 0 {
		return nil
	}
	header := true
	for _, key := range slices.Sorted(maps.Keys(of.points)) {
		points := of.points[key]
		for len(points) > 0 {
			until := s.Until.Add(1)
			if len(points) > 1 {
				until = points[1].at
			}
			m := proto.Clone(points[0].metric).(*dto.Metric)
			for _, name := range slices.Sorted(maps.Keys(s.Labels)) {
				m.Label = append(m.Label, &dto.LabelPair{Name: &name, Value: proto.String(s.Labels[name])})
			}
			for at := points[0].at; at.Before(until); at = at.Add(s.Step) {
				m.TimestampMs = proto.Int64(at.UnixMilli())
				of.family.Metric = []*dto.Metric{m}
				if err := encode(w, of.family, header); err != nil {
					return err
				}
				header = false
			}
			points = points[1:]
		}
	}
	return nil
}

// encode writes the samples of a family, after its header or without it.
func encode(w io.Writer, f *dto.MetricFamily, header bool) error {
	var b bytes.Buffer
	if _, err := expfmt.MetricFamilyToOpenMetrics(&b, f); err != nil {
		return fmt.Errorf("write %s: %w", f.GetName(), err)
	}
	for line := range strings.Lines(b.String()) {
		if header || !strings.HasPrefix(line, "#") {
			if _, err := io.WriteString(w, line); err != nil {
				return err
			}
		}
	}
	return nil
}

func labelsOf(m *dto.Metric) string {
	var b strings.Builder
	for _, l := range m.Label { // which Gather sorts
		fmt.Fprintf(&b, "%q=%q,", l.GetName(), l.GetValue())
	}
	return b.String()
}
