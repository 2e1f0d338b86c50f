package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/ducompsoc/durhack-deployer/internal/mask"
)

// digest identifies the effective settings of a deployment. The event log keeps
// it, so it must neither change between releases without need nor let a secret
// be guessed: the passwords of remote and the values of secret variables are
// left out (a change of those alone leaves the digest as it is).
func digest(d *Deployment, v variables) string {
	type step struct {
		Name    string            `json:"name"`
		Run     []string          `json:"run"`
		Dir     string            `json:"dir,omitempty"`
		Env     map[string]string `json:"env,omitempty"`
		Timeout int64             `json:"timeout_ns,omitempty"`
	}
	steps := make([]step, len(d.Steps))
	for i, s := range d.Steps {
		steps[i] = step{Name: s.Name, Run: s.Run, Dir: s.Dir, Env: maskedVariables(s.Env), Timeout: int64(s.Timeout)}
	}
	type site struct {
		Rule   string   `json:"rule"`
		Select []string `json:"select"`
	}
	sites := make([]site, len(d.Sites))
	for i, s := range d.Sites {
		sites[i] = site(s)
	}
	// New settings are added with omitempty: a deployment that does not use
	// them keeps its digest.
	canonical, err := json.Marshal(struct {
		Slug          string `json:"slug"`
		Repository    string `json:"repository"`
		Branch        string `json:"branch"`
		Path          string `json:"path"`
		Remote        string `json:"remote"`
		Enabled       bool   `json:"enabled"`
		Handler       string `json:"handler"`
		Steps         []step `json:"steps,omitempty"`
		Timeout       int64  `json:"timeout_ns"`
		Pending       string `json:"pending"`
		OnInterrupt   string `json:"on_interrupt"`
		Submodules    bool   `json:"submodules,omitempty"`
		Tags          bool   `json:"tags,omitempty"`
		HealthURL     string `json:"health_url,omitempty"`
		HealthTimeout int64  `json:"health_timeout_ns,omitempty"`
		InstanceName  string `json:"instance_name,omitempty"`
		Sites         []site `json:"sites,omitempty"`
		Unit          string `json:"systemd_unit_name,omitempty"`

		FetchTimeout int64             `json:"fetch_timeout_ns,omitempty"`
		EnvNames     []string          `json:"env_names,omitempty"`
		Env          map[string]string `json:"env,omitempty"`
	}{
		d.Slug, d.Repository, d.Branch, d.Path, mask.URL(d.Remote), d.Enabled, d.Handler, steps, int64(d.Timeout),
		d.Pending, d.OnInterrupt, d.Submodules, d.Tags, d.Health.URL, int64(d.Health.Timeout), d.InstanceName, sites, d.SystemdUnitName,
		int64(d.FetchTimeout), v.pass, maskedVariables(v.set),
	})
	if err != nil {
		return "" // strings, numbers and maps of strings cannot fail to marshal
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:])
}

func maskedVariables(set map[string]string) map[string]string {
	shown := make(map[string]string, len(set))
	for name, value := range set {
		shown[name] = shownVariable(name, value)
	}
	return shown
}
