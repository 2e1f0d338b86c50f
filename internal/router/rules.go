package router

import "github.com/ducompsoc/durhack-deployer/internal/config"

// Rules is the router's view of the configuration.
func Rules(c *config.Config) []Rule {
	rules := make([]Rule, 0, len(c.Deployments))
	for _, slug := range c.Slugs() {
		d := c.Deployments[slug]
		rules = append(rules, Rule{
			Slug: slug, Repository: d.Repository, Branch: d.Branch, Enabled: d.Enabled, ConfigDigest: d.Digest,
		})
	}
	return rules
}
