//go:build integration

package integration

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// promtool runs Prometheus' own tool, which must find nothing wrong.
func promtool(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command("promtool", args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("promtool %s: %v\n%s", strings.Join(args, " "), err, out.String())
	}
	return out.String()
}

func TestPrometheus_TakesTheAlerts(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"check", "rules", "../deploy/prometheus/alerts.yml"}, {"test", "rules", "../deploy/prometheus/alerts_test.yml"}} {
		if out := promtool(t, "", args...); !strings.Contains(out, "SUCCESS") {
			t.Errorf("%s", out)
		}
	}
}

// Prometheus takes what a running daemon shows, and, from the log, what it would have
// shown in the past.
func TestPrometheus_TakesTheMetricsOfNowAndOfThePast(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	tips := r.pages("main", 2)
	s := newSite(t, pgtest.DSN(t), deployment{slug: "web", repository: "ada/web", remote: r, steps: []step{script("check", `test ! -e "$PWD/../fail"`)}})
	p := s.start("serve")
	g := s.github(p.addr())
	first := push("ada/web", "main", tips[0])
	g.send(first)
	s.ends(first.id)
	if err := os.WriteFile(filepath.Join(s.dir, "www", "fail"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	second := push("ada/web", "main", tips[1])
	g.send(second)
	s.ends(second.id)

	var page string
	await(t, "the metrics to count both", func() bool {
		page = fetch(t, "http://"+p.admin()+"/metrics")
		return strings.Contains(page, `durhack_deployer_deploys_total{deployment="web",result="failed"} 1`)
	})
	for _, want := range []string{
		`durhack_deployer_deploys_total{deployment="web",result="deployed"} 1`, `durhack_deployer_deployment_failing{deployment="web"} 1`,
		`durhack_deployer_received_total{source="github"} 2`, `durhack_deployer_webhook_answers_total{code="202"} 2`,
		`durhack_deployer_phase{phase="working"} 1`, `durhack_deployer_database_up 1`, `durhack_deployer_queue_entries{queue="main"} 0`,
		`durhack_deployer_deploy_lead_time_seconds_count{deployment="web"} 1`,
	} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("%s is missing", want)
		}
	}
	promtool(t, page, "check", "metrics")

	past := filepath.Join(s.dir, "past.om")
	out := s.must("metrics", "export", "--since", "2h", "--step", "1s", "--label", "job=durhack-deployer")
	if err := os.WriteFile(past, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	blocks := filepath.Join(s.dir, "blocks")
	promtool(t, "", "tsdb", "create-blocks-from", "openmetrics", past, blocks)
	if err := os.Mkdir(filepath.Join(blocks, "wal"), 0o700); err != nil { // which dump looks for
		t.Fatal(err)
	}
	listed := promtool(t, "", "tsdb", "dump", `--match={__name__="durhack_deployer_deploys_total",result="failed"}`, blocks)
	if !strings.Contains(listed, `job="durhack-deployer"`) || !strings.Contains(listed, "} 1 ") {
		t.Errorf("the blocks hold: %s", lastLines(listed, 3))
	}
	p.stop()
}

func fetch(t *testing.T, url string) string {
	t.Helper()
	client := http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(fmt.Errorf("GET %s: %s: %w\n%s", url, resp.Status, err, raw))
	}
	return string(raw)
}
