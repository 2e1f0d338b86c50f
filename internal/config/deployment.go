package config

import (
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/mask"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

const (
	defaultTimeout       = 30 * time.Minute
	defaultHealthTimeout = 30 * time.Second
)

// deployments reads every deployment, those of this version's handlers and the
// others. base are the variables that all of them have.
func (t table) deployments(base variables) map[string]*Deployment {
	all := map[string]*Deployment{}
	if t.node == nil {
		return all
	}
	folded := map[string]string{}
	paths := map[string]string{}
	for _, slug := range t.node.keys() {
		n := t.node.table[slug]
		if n.bad {
			continue
		}
		key := join(t.name, slug)
		if !names.Plain(slug) {
			t.failAt(n.at, key, fmt.Sprintf("deployment %q: a slug is %s", slug, names.PlainRule), "it names a queue's directory")
			continue
		}
		if !names.Slug(slug) {
			t.failAt(n.at, key, fmt.Sprintf("deployment %q: this slug is the name of the main queue", slug), "choose another")
			continue
		}
		lower := strings.ToLower(slug)
		if other, taken := folded[lower]; taken {
			t.failAt(n.at, key, fmt.Sprintf("deployments %q and %q differ only in upper and lower case", other, slug), "rename one")
		}
		folded[lower] = slug
		d := t.sub(slug).deployment(slug, base)
		if other, taken := paths[d.Path]; taken && d.Path != "" {
			t.failAt(t.sub(slug).position("path"), key+".path", fmt.Sprintf("deployments %q and %q have the same path %q", other, slug, d.Path), "each needs a directory of its own")
		}
		paths[d.Path] = slug
		all[slug] = d
	}
	for _, slug := range slices.Sorted(maps.Keys(all)) {
		d := all[slug]
		for above := filepath.Dir(d.Path); d.Path != "" && above != "/"; above = filepath.Dir(above) {
			if outer, taken := paths[above]; taken {
				t.warn(t.sub(slug).position("path"), join(t.name, slug)+".path", fmt.Sprintf(
					"the path of %q is inside that of %q, which must be deployed first: it is not cloned into a directory that is not empty", slug, outer))
				break
			}
		}
	}
	return all
}

func (t table) deployment(slug string, base variables) *Deployment {
	d := &Deployment{Slug: slug, at: t.node.at}
	d.Repository = t.required("repository", `repository = "owner/name"`, validRepository)
	d.Branch = t.required("branch", `branch = "main"`, validBranch)
	if strings.HasPrefix(d.Branch, "refs/heads/") {
		t.warn(t.position("branch"), t.name+".branch", fmt.Sprintf("branch %q is meant without refs/heads/: a push to %q will not match", d.Branch, strings.TrimPrefix(d.Branch, "refs/heads/")))
	}
	d.Path = t.required("path", `path = "/var/www/..."`, validPath)
	if d.Path != "" {
		d.Path = filepath.Clean(d.Path)
	}
	d.Remote = t.remote(d.Repository)
	d.Enabled = t.bool("enabled", true)
	d.Timeout = t.duration("timeout", defaultTimeout)
	d.FetchTimeout = t.duration("fetch_timeout", 0)
	set := t.variables(base, d.Enabled)
	d.Env = set.list(t.env)
	d.Pending = t.choice("pending", PendingEvery, PendingEvery, PendingLatest)
	d.OnInterrupt = t.choice("on_interrupt", OnInterruptRetry, OnInterruptRetry, OnInterruptFail)
	d.Submodules = t.bool("submodules", false)
	d.Tags = t.bool("tags", false)
	d.Health = t.health()
	d.Steps = t.steps()
	d.InstanceName = t.optional("instance_name", validInstanceName)
	d.SystemdUnitName = t.optional("systemd_unit_name", validUnitName)
	d.UWSGIConfigPath = t.optional("uwsgi_config_path", validPath)
	d.Sites = t.sites()
	d.Handler = t.handler(slug)
	if d.UWSGIConfigPath != "" {
		t.warn(t.position("uwsgi_config_path"), t.name+".uwsgi_config_path", t.name+".uwsgi_config_path is accepted from the Python deployer's files and has no effect: nothing runs under uWSGI any more")
	}
	if d.Handler != "" && d.Handler != HandlerCommand {
		d.Unsupported = fmt.Sprintf("handler %q comes in a later release of durhack-deployer", d.Handler)
		if !d.Enabled {
			t.warn(d.at, t.name, fmt.Sprintf("deployment %q is disabled, and could not be enabled yet: %s", slug, d.Unsupported))
		}
	}
	d.Digest = digest(d, set)
	return d
}

// required reads a string that must be there; valid returns what is wrong with
// it and what to do, or "".
func (t table) required(key, example string, valid func(string) (wrong, suggestion string)) string {
	if !t.has(key) {
		t.failAt(t.node.at, join(t.name, key), fmt.Sprintf("%s has no %s", header(t.name), key), "add "+example)
		return ""
	}
	return t.optional(key, valid)
}

func (t table) optional(key string, valid func(string) (wrong, suggestion string)) string {
	text, n := t.string(key, "")
	if n == nil {
		return ""
	}
	if wrong, suggestion := valid(text); wrong != "" {
		t.fail(n, key, fmt.Sprintf("%s %q %s", join(t.name, key), text, wrong), suggestion)
		return ""
	}
	return text
}

func (t table) remote(repository string) string {
	n := t.get("remote")
	if n == nil {
		if t.has("remote") || repository == "" {
			return ""
		}
		remote := "https://github.com/" + repository + ".git"
		t.record("remote", remote, nil)
		return remote
	}
	shown := mask.URL(n.text)
	t.record("remote", shown, n)
	if wrong, suggestion := validRemote(n.text); wrong != "" {
		// Not the value itself: it may contain a password.
		t.fail(n, "remote", fmt.Sprintf("%s %s", join(t.name, "remote"), wrong), suggestion)
		return ""
	}
	if u, err := url.Parse(n.text); err == nil && u.User != nil {
		if password, has := u.User.Password(); has {
			t.hide(password)
		} else if u.Scheme == "http" || u.Scheme == "https" {
			t.hide(u.User.Username())
		}
		if shown != n.text {
			t.warn(n.at, t.name+".remote", t.name+".remote contains a password, which git may show to other users of this machine; a credential helper or a deploy key does not")
		}
	}
	return n.text
}

func (t table) health() Health {
	n := t.get("health")
	if n == nil {
		return Health{}
	}
	h := Health{Timeout: defaultHealthTimeout}
	if n.kind == isTable {
		own := t.sub("health")
		h.Timeout = own.duration("timeout", defaultHealthTimeout)
		h.URL = own.required("url", `url = "http://localhost:3000/healthz"`, validHealth)
	} else {
		h.URL = t.optional("health", validHealth)
	}
	t.warn(n.at, t.name+".health", t.name+".health has no effect yet: health checks come in a later release")
	return h
}

func (t table) sites() []SiteRule {
	n := t.get("sites")
	if n == nil {
		return nil
	}
	if len(n.list) == 0 {
		t.record("sites", []string{}, n)
	}
	var sites []SiteRule
	for i, element := range n.list {
		site := table{reader: t.reader, node: element, name: fmt.Sprintf("%s[%d]", join(t.name, "sites"), i)}
		var rule SiteRule
		if site.has("rule") {
			rule.Rule = site.choice("rule", "", "include", "exclude")
		} else {
			site.failAt(element.at, site.name+".rule", fmt.Sprintf("%s has no rule", header(site.name)), `add rule = "include" or rule = "exclude"`)
		}
		if !site.has("select") {
			site.failAt(element.at, site.name+".select", fmt.Sprintf("%s has no select", header(site.name)), `add select = ["site.example.com"], or "*" in it for all`)
		}
		var nodes []*node
		rule.Select, nodes = site.strings("select")
		for j, name := range rule.Select {
			if wrong, suggestion := validSite(name); wrong != "" {
				site.fail(nodes[j], "select", fmt.Sprintf("%s.select[%d] %q %s", site.name, j, name, wrong), suggestion)
			}
		}
		if chosen := site.get("select"); chosen != nil {
			site.record("select", rule.Select, chosen)
		}
		sites = append(sites, rule)
	}
	return sites
}

// handler tells the kind of a deployment: what `handler` says, else what the
// one telling key does. "" where that fails.
func (t table) handler(slug string) string {
	telling := []struct{ key, handler string }{
		{"steps", HandlerCommand}, {"instance_name", HandlerPM2}, {"sites", HandlerNginx}, {"systemd_unit_name", HandlerSelf},
	}
	var keys, handlers []string
	for _, tell := range telling {
		if t.has(tell.key) {
			keys, handlers = append(keys, tell.key), append(handlers, tell.handler)
		}
	}
	if t.has("handler") {
		chosen := t.choice("handler", "", HandlerCommand, HandlerPM2, HandlerNginx, HandlerSelf)
		for _, tell := range telling {
			switch {
			case chosen == "" || (tell.handler == chosen) == t.has(tell.key):
			case tell.handler != chosen:
				t.warn(t.node.table[tell.key].at, join(t.name, tell.key), fmt.Sprintf("%s has no effect: the handler is %q", join(t.name, tell.key), chosen))
			case chosen != HandlerCommand: // without steps, the checkout is the deploy
				t.failAt(t.position("handler"), t.name, fmt.Sprintf("deployment %q has handler %q and no %s", slug, chosen, tell.key), "add "+tell.key)
			}
		}
		return chosen
	}
	const which = `add [[%[1]s.steps]] (command), instance_name (pm2), sites (nginx) or systemd_unit_name (self), or say handler = "command" if the checkout is all there is to do`
	switch len(keys) {
	case 0:
		if t.has("uwsgi_config_path") { // only the Python deployer's own deployment had it
			t.record("handler", HandlerSelf, t.get("uwsgi_config_path"))
			return HandlerSelf
		}
		t.failAt(t.node.at, t.name, fmt.Sprintf("deployment %q does not say how to deploy it", slug), fmt.Sprintf(which, t.name))
		return ""
	case 1:
		t.record("handler", handlers[0], t.node.table[keys[0]])
		return handlers[0]
	}
	t.failAt(t.node.table[keys[1]].at, t.name, fmt.Sprintf("deployment %q has the keys of several handlers: %s", slug, strings.Join(keys, ", ")), fmt.Sprintf("remove all but one, or say which with handler = %q", handlers[0]))
	return ""
}
