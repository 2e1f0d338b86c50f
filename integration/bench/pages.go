package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// pages measures how long the pages of the dashboard and the answers of the API take: the slowest
// one on a long log against `status` on it, and all of them against those on a short log.
func pages(ctx context.Context, b *bench) ([]result, error) {
	const short, long = 0, 1
	var logs [2]longLog
	var served [2]*process
	for i, n := range []int{fewEvents, logEvents} {
		var err error
		if logs[i], err = b.longLog(ctx, n); err != nil {
			return nil, err
		}
		p, err := b.deployer(ctx, "serve", logs[i].config, `"admin pages"`, func(time.Time, string) {})
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, p.stop()) }()
		if err := p.fit(ctx); err != nil {
			return nil, err
		}
		served[i] = p
	}
	kinds := []struct {
		one, all string
		// shared says that what was made is given to all who ask for the same within a second.
		shared bool
		paths  []string
	}{
		{"page", "pages", true, []string{
			"/", "/deployments/app-3", "/deployments/app-3?before=3000.1", "/log", "/log?type=deployed&deployment=app-1", "/log?before=5000", "/log?since=2026-01-01T02:00", "/log?type=failed",
			"/at", "/at?time=2026-01-01T01:00", "/proof", "/deliveries/" + sampleDelivery,
		}},
		{"answer of the API", "answers of the API", false, []string{
			"/api/v1/deployments", "/api/v1/deployments/app-3", "/api/v1/deployments/app-3/attempts", "/api/v1/deployments/app-3/attempts?before=3000.1", "/api/v1/deliveries/" + sampleDelivery[:8],
			"/api/v1/events", "/api/v1/events?after=5000", "/api/v1/events?after=5000&type=deployed&deployment=app-1", "/api/v1/events?type=failed", "/api/v1/events?delivery=" + sampleDelivery[:8],
		}},
	}
	var results []result
	for _, kind := range kinds {
		var slowest, status, all [2][]float64
		for round := range b.rounds {
			b.round(round)
			var times [2][]float64
			for _, path := range kind.paths {
				var took [2][]float64
				for n := range asked {
					address := path
					if kind.shared {
						address += map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")] + fmt.Sprint("look=", n+round*asked)
					}
					for i, p := range served { // in turn, for the machine is not always as quick
						begin := time.Now()
						if err := p.page(ctx, address); err != nil {
							return nil, err
						}
						took[i] = append(took[i], milliseconds(time.Since(begin)))
					}
				}
				for i := range served {
					times[i] = append(times[i], median(took[i]))
				}
				if round == 0 {
					fmt.Fprintf(b.progress, "pages: %s: %.1f ms\n", path, median(took[long]))
				}
			}
			for i := range served {
				var sum float64
				for _, t := range times[i] {
					sum += t
				}
				slowest[i], all[i] = append(slowest[i], slices.Max(times[i])), append(all[i], sum)
			}
			var took []float64
			for range asked {
				begin := time.Now()
				if _, _, err := b.command(ctx, logs[long], "status", "--json"); err != nil {
					return nil, err
				}
				took = append(took, milliseconds(time.Since(begin)))
			}
			status[long] = append(status[long], median(took))
		}
		results = append(results,
			compare("the slowest "+kind.one+", 1,000,000 events", "`status`", "ms", slowest[long], status[long], target{max: 1.5}),
			compare("all "+kind.all+", 1,000,000 events", "10,000 events", "ms", all[long], all[short], target{max: 1.5}))
	}
	return results, nil
}

// sampleDelivery is the hundredth of the sample log.
const sampleDelivery = "5fcba263-3bef-1c29-420e-0eed7b037ced"

// page asks for a page, and wants it whole.
func (p *process) page(ctx context.Context, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+path, http.NoBody)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", path, answer.Status)
	}
	return nil
}
