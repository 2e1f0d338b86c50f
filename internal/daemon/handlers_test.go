package daemon

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/helper"
)

// The page of each handler has a configuration that loads, and makes a plan.
func TestHandler_PagesHaveConfigurationsThatLoad(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../../docs/handlers/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	toml := regexp.MustCompile("(?s)```toml\n(.*?)```")
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		loaded := 0
		for _, example := range toml.FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(example[1], "[deployments.") {
				continue
			}
			loaded++
			file := filepath.Join(t.TempDir(), "page.toml")
			if err := os.WriteFile(file, []byte(example[1]), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, err := config.Load([]string{file}, func(string) string { return "" })
			if err != nil {
				t.Errorf("%s: %v", page, err)
				continue
			}
			if problems, warnings := cfg.Problems(), cfg.Warnings; len(problems)+len(warnings) > 0 {
				t.Errorf("%s: %v %v", page, problems, warnings)
			}
			for slug, d := range cfg.Deployments {
				h, err := Handler(cfg, d)
				if err != nil {
					t.Errorf("%s: %v", page, err)
					continue
				}
				plan, err := h.Plan(t.Context(), handlers.Job{Deployment: slug, Branch: d.Branch, Commit: strings.Repeat("a", 40)})
				if err != nil || len(plan.Steps) < 3 {
					t.Errorf("%s: %s would do %q, %v", page, slug, plan.Names(), err)
				}
			}
		}
		if loaded == 0 {
			t.Errorf("%s has no configuration of a deployment", page)
		}
	}
}

func TestRoot_IsThisProcessWhereItRunsNginxItself(t *testing.T) {
	t.Parallel()
	cfg := &config.Config{}
	d := &config.Deployment{}
	if _, ours := Root(cfg, d).(helper.Here); ours {
		t.Error("without a program of its own, it is not the helper that is asked")
	}
	d.NginxCommand, d.Certbot = []string{"nginx", "-c", "/x"}, []string{"certbot", "--config-dir", "/le", "--logs-dir=/logs"}
	here, ours := Root(cfg, d).(helper.Here)
	if !ours || !here.Nginx.Signal || here.Certificates.Live != "/le/live" || here.Certificates.Log != "/logs/letsencrypt.log" || here.Nginx.ErrorLog != "/var/log/nginx/error.log" {
		t.Errorf("the rules are %+v", here.Rules)
	}
}
