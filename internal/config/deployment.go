package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/mask"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// deployments settles every deployment, those of this version's handlers and the
// others, and compares them with each other.
func (d *decoder) deployments(c *Config) {
	base := d.variablesOf(c, "", Variables{}, c.Variables, true)
	folded, paths, instances := map[string]string{}, map[string]string{}, map[string]string{}
	for _, slug := range c.Slugs() {
		one, key := c.Deployments[slug], join("deployments", slug)
		one.Slug, one.at = slug, d.at[key]
		lower := strings.ToLower(slug)
		if other, taken := folded[lower]; taken {
			d.fail(one.at, key, fmt.Sprintf("deployments %q and %q differ only in upper and lower case", other, slug), "rename one")
		}
		folded[lower] = slug
		if other, taken := paths[one.Path]; taken && one.Path != "" {
			d.fail(d.place(key+".path", key), key+".path", fmt.Sprintf("deployments %q and %q have the same path %q", other, slug, one.Path), "each needs its own directory")
		}
		paths[one.Path] = slug
		d.deployment(c, one, key, base)
		if name := one.User + "\x00" + one.PM2Home + "\x00" + one.InstanceName; one.Handler == HandlerPM2 && one.InstanceName != "" {
			if other, taken := instances[name]; taken {
				at := key + ".instance_name"
				d.fail(d.at[at], at, fmt.Sprintf("deployments %q and %q have the same instance_name %q", other, slug, one.InstanceName),
					"give each another: the names of their apps are made from it")
			}
			instances[name] = slug
		}
	}
	for _, slug := range c.Slugs() {
		one, key := c.Deployments[slug], join("deployments", slug)+".path"
		for above := filepath.Dir(one.Path); one.Path != "" && above != "/"; above = filepath.Dir(above) {
			if outer, taken := paths[above]; taken {
				d.warn(d.at[key], key, fmt.Sprintf(
					"the path of %q is inside that of %q, which must be deployed first: it is not cloned into a directory that is not empty", slug, outer))
				break
			}
		}
	}
}

func (d *decoder) deployment(c *Config, one *Deployment, key string, base Variables) {
	if remote := d.setting(key + ".remote"); one.Repository != "" && !d.has(remote.key) {
		one.Remote = "https://github.com/" + one.Repository + ".git"
		remote.show(one.Remote, "default")
	}
	one.Variables = d.variablesOf(c, key, base, one.Variables, one.Enabled)
	one.Env = one.list(d.env)
	d.steps(one, key)
	d.health(one.Health, key+".health")
	if !d.has(key + ".handler") {
		one.Handler = d.toldHandler(one, key)
	} else {
		d.idleKeys(one, key)
	}
	d.idleTables(one, key)
	d.self(one, key)
	if s := d.setting(key + ".key"); one.Key != "" && !unquoted.MatchString(c.StateDir) {
		s.fail(fmt.Sprintf("%s needs a state_dir whose path ssh can be given, not %q", s.key, c.StateDir), "choose one of letters, digits and @_+=:,.-")
	}
	if s := d.setting(key + ".user"); one.User != "" && (one.Handler == HandlerSelf || one.Handler == HandlerNginx) {
		s.fail(fmt.Sprintf("%s has no place with the handler %q, which changes what is the deployer's own, or nginx's", s.key, one.Handler), "remove it")
	}
	d.releases(one, key)
	canonical, err := json.Marshal(one)
	if err != nil {
		return // strings, numbers and maps of strings cannot fail to marshal
	}
	sum := sha256.Sum256(canonical)
	one.Digest = hex.EncodeToString(sum[:])
	switch one.Handler {
	case HandlerPM2:
		d.preset(reflect.ValueOf(&one.PM2).Elem(), key)
		if len(one.Workspaces) == 0 {
			d.fail(d.at[key+".workspaces"], key+".workspaces", key+".workspaces names no workspace", `write workspaces = ["server"]`)
		}
	case HandlerNginx:
		d.preset(reflect.ValueOf(&one.Nginx).Elem(), key)
		d.nginx(one, key)
	}
}

// idleTables looks at the keys of one handler where it is another one that is meant.
func (d *decoder) idleTables(one *Deployment, key string) {
	for handler, table := range map[string]reflect.Type{HandlerPM2: reflect.TypeFor[PM2](), HandlerNginx: reflect.TypeFor[Nginx]()} {
		if one.Handler == handler {
			continue
		}
		for _, name := range fieldOf(table, "", "").keys {
			s := d.setting(join(key, name))
			if d.has(s.key) {
				s.warn(fmt.Sprintf("%s has no effect: the handler is %q", s.key, one.Handler))
			}
			delete(d.values, s.key)
		}
	}
}

// preset fills in what was not written of the keys of one handler.
func (d *decoder) preset(into reflect.Value, key string) {
	table := fieldOf(into.Type(), "", "")
	for _, name := range table.keys {
		f, s := table.fields[name], d.setting(join(key, name))
		target, text := into.FieldByIndex(f.index), f.tag.Get("preset")
		switch value := target.Addr().Interface().(type) {
		case *Certificates:
			if !d.has(s.key) {
				d.table(nil, f, s.key, target)
			}
			continue
		case *[]string:
			if !d.has(s.key) && text != "" {
				*value = strings.Fields(text)
				s.show(*value, "default")
			}
			continue
		}
		if !d.has(s.key) && text != "" {
			f.tag = reflect.StructTag(`default:` + strconv.Quote(text))
			s.show(preset(f, target), "default")
		}
	}
}

// nginx checks what a check of a single key cannot tell.
func (d *decoder) nginx(one *Deployment, key string) {
	certificates := join(key, "certificates")
	if one.ConfDir == one.SnippetsDir {
		d.fail(d.place(key+".snippets_dir", key+".conf_dir"), key+".snippets_dir", "conf_dir and snippets_dir are the same directory", "nginx would read each snippet as a site")
	}
	dirs := []string{one.Production, one.Snippets, one.LocalLive}
	for i, a := range dirs {
		for j, b := range dirs {
			if i != j && strings.HasPrefix(b+"/", a+"/") {
				d.fail(d.place(key+".local_live", key+".snippets", key+".production", key), key, fmt.Sprintf("the directories %q and %q are the same, or one is inside of the other", a, b), "")
				return
			}
		}
	}
	if len(one.NginxCommand) == 0 {
		for _, name := range []string{join(key, "certbot"), join(certificates, "webroot"), join(certificates, "server"), join(certificates, "email")} {
			if s := d.setting(name); d.has(s.key) {
				s.warn(s.key + " has no effect: the helper runs certbot, by the rules of " + HelperFile + "; set nginx, too, where the deployer itself should run both")
			}
		}
		return
	}
	if len(one.Certbot) == 0 {
		one.Certbot = []string{"certbot"}
	}
	if one.Certificates.Authenticator == "webroot" && one.Certificates.Webroot == "" {
		d.fail(d.at[certificates], certificates, certificates+` has authenticator = "webroot" and no webroot`, `add webroot = "/var/www/html"`)
	}
	for _, text := range []string{one.Certificates.Server, one.Certificates.Email} {
		if strings.HasPrefix(text, "-") {
			d.fail(d.at[certificates], certificates, fmt.Sprintf("%s has %q, which certbot would take for an option", certificates, text), "")
		}
	}
}

// MarshalJSON is the effective settings without what is secret: the passwords of
// remote and the values of secret variables are masked. Its hash is the Digest,
// which the event log keeps, so it must not change between releases without need.
// New settings are added with omitempty (or omitzero, and a type whose IsZero knows
// the default): a deployment that does not use them keeps its digest.
func (d Deployment) MarshalJSON() ([]byte, error) {
	type plain Deployment
	shown := plain(d)
	shown.Remote = mask.URL(d.Remote)
	shown.Set = shownVariables(d.Set)
	shown.Steps = slices.Clone(d.Steps)
	for i := range shown.Steps {
		shown.Steps[i].Env = shownVariables(d.Steps[i].Env)
	}
	return json.Marshal(shown)
}

// releases checks the strategy, and presets what it needs.
func (d *decoder) releases(one *Deployment, key string) {
	keep := d.setting(key + ".keep")
	if one.Strategy != StrategyReleases {
		for _, s := range [...]setting{keep, d.setting(key + ".shared")} {
			if d.has(s.key) {
				s.warn(s.key + ` has no effect without strategy = "releases"`)
			}
		}
		delete(d.values, keep.key)
		one.Keep, one.Shared = 0, nil
		return
	}
	if !slices.Contains([]string{HandlerCommand, HandlerPM2, ""}, one.Handler) {
		d.setting(key+".strategy").fail(fmt.Sprintf("%s.strategy %q is for the handlers %q and %q, and not for %q", key, one.Strategy, HandlerCommand, HandlerPM2, one.Handler),
			"remove it: the commit is put into the path itself")
	}
	switch {
	case !d.has(keep.key):
		one.Keep = 5
		keep.show(one.Keep, "default")
	case one.Keep < 1:
		keep.fail(keep.key+" must be at least 1", "the release that is live always stays")
	}
	for i, name := range one.Shared {
		for j, other := range one.Shared {
			if at := element(key+".shared", i); i != j && strings.HasPrefix(name+"/", other+"/") {
				d.fail(d.at[at], key+".shared", fmt.Sprintf("%s %q is inside of %q, which is shared, too", at, name, other), "remove it")
				break
			}
		}
	}
}

// health checks what a check of a single key cannot tell.
func (d *decoder) health(h Health, key string) {
	if h.Interval == 0 { // it is not there, or something else, which was reported
		return
	}
	const advice = `write url = "http://localhost:3000/healthz", or command = ["program", "argument"]`
	fail := func(name, wrong, suggestion string) {
		inner := key + "." + name
		d.fail(d.place(inner, key), inner, inner+" "+wrong, suggestion)
	}
	_, isURL := d.values[key]
	switch {
	case h.URL != "" && h.Command != nil:
		fail("command", "stands beside a url, and one of them is asked", "remove the other")
	case h.Command != nil && (len(h.Command) == 0 || h.Command[0] == ""):
		fail("command", "names no program", advice)
	case h.Command != nil && h.Expect != (Expect{}):
		fail("expect", "is for the answer of a url: a command is healthy where it exits with 0", "remove it")
	case !isURL && !d.has(key+".url") && !d.has(key+".command"):
		d.fail(d.at[key], key, key+" says neither which url to ask nor which command to run", advice)
	}
	if status := h.Expect.Status; status != 0 && status < 100 {
		fail("expect.status", fmt.Sprintf("must be from 100 to 599, not %d", status), "")
	}
	switch {
	case h.Successes < 1:
		fail("successes", fmt.Sprintf("must be at least 1, not %d", h.Successes), "")
	case h.Timeout/h.Interval < time.Duration(h.Successes):
		fail("timeout", fmt.Sprintf("of %s is too short for the interval of %s and %d successes", h.Timeout, h.Interval, h.Successes),
			"write at least interval times successes")
	}
}

// steps checks what a check of a single key cannot tell.
func (d *decoder) steps(one *Deployment, key string) {
	earlier := map[string]bool{}
	for verb, units := range map[string][]string{names.VerbRestart: one.Restart, names.VerbReload: one.Reload} {
		for _, unit := range units {
			earlier[verb+" "+unit] = true
		}
	}
	earlier[names.StepHealth] = d.has(key + ".health")
	for _, name := range [...]string{names.StepShared, names.StepSwitch, names.StepPrune} {
		earlier[name] = one.Strategy == StrategyReleases
	}
	for i, script := range one.Scripts {
		if earlier[script] {
			d.fail(d.at[element(key+".scripts", i)], key+".scripts", fmt.Sprintf("%s %q is the name of another step", element(key+".scripts", i), script), "give the script another name in package.json")
		}
	}
	for i, step := range one.Steps {
		path := element(key+".steps", i)
		name, run := d.setting(path+".name"), d.setting(path+".run")
		if step.Name != "" && earlier[step.Name] {
			name.fail(fmt.Sprintf("%s %q is the name of another step", name.key, step.Name), "give each step its own name")
		}
		earlier[step.Name] = true
		switch {
		case step.Run == nil: // it is missing or no list of strings, which was reported
		case len(step.Run) == 0 || step.Run[0] == "":
			run.fail(run.key+" names no program", `write run = ["program", "argument"]`)
		case len(step.Run) == 1 && strings.ContainsAny(step.Run[0], " \t"):
			run.warn(fmt.Sprintf("%s is one word with spaces in it, %q: there is no shell that would split it; write each argument as its own element", run.key, step.Run[0]))
		}
		for j, argument := range step.Run {
			if strings.ContainsRune(argument, 0) {
				d.fail(d.at[element(run.key, j)], run.key, fmt.Sprintf("%s has a NUL character, which no program can be given", element(run.key, j)), "")
			}
		}
	}
}

// self settles what is different for a deployer that deploys itself.
func (d *decoder) self(one *Deployment, key string) {
	if s := d.setting(key + ".self"); one.Handler != HandlerSelf {
		if d.has(s.key) {
			s.warn(fmt.Sprintf("%s has no effect: the handler is %q", s.key, one.Handler))
		}
		return
	}
	if s := d.setting(key + ".on_interrupt"); d.has(s.key) && one.OnInterrupt == OnInterruptRetry {
		s.warn(s.key + " has no effect: a deploy of the deployer itself is never retried")
	}
	for _, name := range []string{"restart", "reload", "health"} {
		if s := d.setting(join(key, name)); d.has(s.key) {
			s.fail(s.key+" cannot be with the handler self, whose last step ends the deployer", "remove it: a new version proves itself by /readyz")
		}
	}
	if ready, probation := one.Self.ReadyFor, one.Self.Probation; probation > 0 && probation <= ready {
		d.setting(key+".self.probation").fail(fmt.Sprintf("%s.self.probation must be longer than ready_for (%v)", key, ready), "")
	}
}

// telling are the keys that tell which handler is meant.
var telling = []struct{ key, handler string }{
	{"steps", HandlerCommand}, {"instance_name", HandlerPM2}, {"sites", HandlerNginx}, {"systemd_unit_name", HandlerSelf},
}

// idleKeys looks at the telling keys where `handler` says which one is meant.
func (d *decoder) idleKeys(one *Deployment, key string) {
	for _, tell := range telling {
		s := d.setting(join(key, tell.key))
		switch {
		case one.Handler == "" || (tell.handler == one.Handler) == d.has(s.key):
		case tell.handler != one.Handler:
			s.warn(fmt.Sprintf("%s has no effect: the handler is %q", s.key, one.Handler))
		case one.Handler != HandlerCommand: // without steps, the checkout is the deploy
			d.fail(d.at[key+".handler"], key, fmt.Sprintf("deployment %q has handler %q and no %s", one.Slug, one.Handler, tell.key), "add "+tell.key)
		}
	}
}

// toldHandler is what the one telling key says; "" where that fails.
func (d *decoder) toldHandler(one *Deployment, key string) string {
	var keys, handlers []string
	for _, tell := range telling {
		if d.has(join(key, tell.key)) {
			keys, handlers = append(keys, tell.key), append(handlers, tell.handler)
		}
	}
	if len(keys) == 0 && d.has(key+".uwsgi_config_path") { // only the Python deployer's own deployment had it
		keys, handlers = []string{"uwsgi_config_path"}, []string{HandlerSelf}
	}
	switch len(keys) {
	case 0:
		d.fail(one.at, key, fmt.Sprintf("deployment %q does not say how to deploy it", one.Slug), fmt.Sprintf(
			`add [[%s.steps]] (command), instance_name (pm2), sites (nginx) or systemd_unit_name (self), or say handler = "command" if the checkout is all there is to do`, key))
		return ""
	case 1:
		at := d.at[join(key, keys[0])]
		d.values[key+".handler"] = Value{key + ".handler", handlers[0], at.file, at.line, "file"}
		return handlers[0]
	}
	d.fail(d.at[join(key, keys[1])], key, fmt.Sprintf("deployment %q has the keys of several handlers: %s", one.Slug, strings.Join(keys, ", ")),
		fmt.Sprintf("remove all but one, or say which with handler = %q", handlers[0]))
	return ""
}
