package daemon

import (
	"fmt"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/github"
)

// NewGitHub is the client of GitHub's API as the configuration has it; nil where that
// has no credentials. A daemon has one, whose limits all parts share.
func NewGitHub(cfg *config.Config, version string) (*github.Client, error) {
	g := cfg.GitHub
	if !g.Set() {
		return nil, nil
	}
	o := github.Options{APIURL: g.APIURL, Version: version}
	if g.TokenFile != "" {
		o.Token = g.Token
	} else {
		o.AppID, o.Key = g.AppID, g.PrivateKey
	}
	client, err := github.New(o)
	if err != nil {
		return nil, fmt.Errorf("[github] %w", err)
	}
	return client, nil
}
