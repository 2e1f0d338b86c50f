package dashboard

import "net/url"

// href is the path of something of an instance.
func (r *request) href(base, name, instance string) string {
	path := base + url.PathEscape(name)
	if !r.own(instance) {
		path += "?instance=" + url.QueryEscape(instance)
	}
	return path
}
