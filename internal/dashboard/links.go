package dashboard

import (
	"net/url"

	"github.com/ducompsoc/durhack-deployer/internal/config"
)

// href is the path of something of an instance.
func (r *request) href(base, name, instance string) string {
	path := base + url.PathEscape(name)
	if !r.own(instance) {
		path += "?instance=" + url.QueryEscape(instance)
	}
	return path
}

// siteURL is the live site of a deployment, "" where nobody has said.
func siteURL(*config.Deployment) string { return "" }
