package daemon

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The alerts and the dashboard ask for metrics that there are.
func TestMetrics_AreThoseOfAlertsAndDashboard(t *testing.T) {
	t.Parallel()
	var source strings.Builder
	for _, file := range []string{"metrics.go", "../metrics/tally.go", "../metrics/look.go"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(raw)
	}
	name := regexp.MustCompile(`durhack_deployer_([a-z_]+)`)
	suffix := regexp.MustCompile(`_(bucket|count|sum)$`)
	for _, file := range []string{"../../deploy/prometheus/alerts.yml", "../../deploy/grafana/durhack-deployer.json"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, ".json") && !json.Valid(raw) {
			t.Errorf("%s is no JSON", file)
		}
		found := name.FindAllStringSubmatch(string(raw), -1)
		if len(found) < 10 {
			t.Errorf("%s asks for %d metrics", file, len(found))
		}
		for _, m := range found {
			if !strings.Contains(source.String(), `"`+suffix.ReplaceAllString(m[1], "")+`"`) {
				t.Errorf("%s asks for %s, which nothing shows", file, m[0])
			}
		}
	}
}
