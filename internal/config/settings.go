package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/ducompsoc/durhack-deployer/internal/mask"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

const (
	defaultLockTTL = 30 * time.Second
	maxPort        = 65535
	maxProxies     = 16
	// maxInstanceFile bounds the file that keeps the name of the instance, in bytes.
	maxInstanceFile = 1 << 10
)

var (
	instanceForeign = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)
	sqlAlchemyURL   = regexp.MustCompile(`\A(postgres(?:ql)?)\+[a-z0-9_]+://`)
)

// config reads the whole of the merged tree.
func (r *reader) config(root *node) *Config {
	top := table{reader: r, node: root}
	c := &Config{
		Origin:      top.origin(),
		StateDir:    top.stateDir(),
		DatabaseURL: top.databaseURL(),
		Secrets:     top.secrets(),
		Listen:      top.sub("listen").hostPort("localhost", 3400),
		Admin:       top.sub("admin").hostPort("127.0.0.1", 3401),
		Lock:        top.sub("lock").lock(),
	}
	top.instance(c)
	c.SigningKeyFile = top.signingKeyFile()
	proxy := top.sub("proxy_fix")
	c.ProxyFix = ProxyFix{XFor: proxy.int("x_for", 0, maxProxies), XProto: proxy.int("x_proto", 0, maxProxies)}
	c.ExecutableSearchPaths = top.searchPaths()
	c.Deployments = top.sub("deployments").deployments(top.variables(variables{}, true))

	admin := top.sub("admin")
	c.AdminSet = admin.has("host") || admin.has("port")
	if ip := net.ParseIP(c.Admin.Host); c.Admin.Host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		r.warn(admin.position("host"), "admin.host", fmt.Sprintf("admin.host %q may be reached from other machines, and the admin pages ask for no password", c.Admin.Host))
	}
	if c.Listen == c.Admin && c.Listen.Port != 0 {
		at := admin.position("port")
		if at.file == "" {
			at = top.sub("listen").position("port")
		}
		r.failAt(at, "admin.port", fmt.Sprintf("listen and admin are both %s", c.Listen), "give them different ports")
	}
	c.origins, c.hidden, c.problems, c.Warnings = sortValues(r.values), r.hidden, r.problems, r.warnings
	return c
}

// position is where the key was written, else where its table was.
func (t table) position(key string) position {
	if n := t.get(key); n != nil {
		return n.at
	}
	if t.node != nil {
		return t.node.at
	}
	return position{}
}

func (t table) origin() string {
	text, n := t.string("origin", "")
	if n == nil {
		return ""
	}
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		t.fail(n, "origin", "origin is not an http or https URL", `write it like "https://deploy.example.com"`)
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		t.fail(n, "origin", "origin must have neither a user, a query nor a fragment", `write it like "https://deploy.example.com"`)
	}
	return strings.TrimRight(text, "/")
}

// InstanceFile is where a state_dir keeps the name of its instance.
func InstanceFile(stateDir string) string { return filepath.Join(stateDir, "instance") }

// instance is the name that the files give; else the one that state_dir keeps, so
// that a host that is called otherwise now goes on with its history; else the host's.
func (t table) instance(c *Config) {
	file := InstanceFile(c.StateDir)
	kept, err := t.on.read(file, maxInstanceFile)
	if c.KeptInstance = strings.TrimSpace(string(kept)); err == nil && !names.Plain(c.KeptInstance) {
		err = errors.New("it does not hold the name of an instance")
	}
	if err != nil {
		c.KeptInstance = ""
		if !errors.Is(err, fs.ErrNotExist) {
			t.warn(position{}, "instance", fmt.Sprintf("the name of the instance cannot be read from %s: %s", file, reason(err)))
		}
	}
	if text, n := t.string("instance", ""); n != nil {
		if !names.Plain(text) {
			t.fail(n, "instance", fmt.Sprintf("instance %q must be %s", text, names.PlainRule), "")
		} else if c.KeptInstance != "" && c.KeptInstance != text {
			c.OtherInstance = fmt.Sprintf("instance %q is set, but %s is that of instance %q since its first start: what was ordered there waits for a daemon of that name; "+
				"set instance = %[3]q, or remove %[4]s to stay with %[1]q", text, c.StateDir, c.KeptInstance, file)
			t.warn(n.at, "instance", c.OtherInstance)
		}
		c.Instance = text
		return
	}
	host := t.hostInstance()
	c.Instance = host
	if c.KeptInstance != "" && c.KeptInstance != host {
		c.Instance = c.KeptInstance
		c.OtherInstance = fmt.Sprintf("this host is called %q now, but the instance stays %q, as %s keeps it; set instance = %[2]q to say that this is right", host, c.Instance, file)
		t.warn(position{}, "instance", c.OtherInstance)
	}
	if !t.has("instance") {
		v := Value{Key: "instance", Value: c.Instance, Source: "default"}
		if c.KeptInstance != "" {
			v.Source = "state_dir"
		}
		t.values = append(t.values, v)
	}
}

// hostInstance is the host's name as that of an instance.
func (t table) hostInstance() string {
	name := ""
	if hostname, err := t.on.name(); err == nil {
		name = strings.TrimLeft(instanceForeign.ReplaceAllString(hostname, "-"), "_.-")
		name = name[:min(len(name), 64)]
	}
	if name == "" {
		name = "localhost"
	}
	return name
}

func (t table) stateDir() string {
	if text, n := t.string("state_dir", ""); n != nil {
		if !filepath.IsAbs(text) || strings.ContainsRune(text, 0) {
			t.fail(n, "state_dir", fmt.Sprintf("state_dir must be an absolute path, not %q", text), `begin it with "/"`)
		}
		return filepath.Clean(text)
	}
	const system = "/var/lib/durhack-deployer"
	dir, from := system, "default"
	unit := unitStateDir(t.env)
	switch {
	case unit != "":
		dir, from = unit, "environment"
	case t.on.root || t.on.writable(system):
	case filepath.IsAbs(t.env("XDG_STATE_HOME")):
		dir, from = filepath.Join(t.env("XDG_STATE_HOME"), "durhack-deployer"), "environment"
	case filepath.IsAbs(t.env("HOME")):
		dir = filepath.Join(t.env("HOME"), ".local", "state", "durhack-deployer")
	case !t.has("state_dir"):
		t.failAt(position{}, "state_dir", "there is no directory to keep state in: this user cannot write to "+system+" and has no home directory", "set state_dir")
	}
	if !t.has("state_dir") {
		t.values = append(t.values, Value{Key: "state_dir", Value: dir, Source: from})
	}
	return dir
}

func (t table) signingKeyFile() string {
	text, n := t.string("signing_key_file", "")
	if n == nil {
		return ""
	}
	if !filepath.IsAbs(text) || strings.ContainsRune(text, 0) {
		t.fail(n, "signing_key_file", fmt.Sprintf("signing_key_file must be an absolute path, not %q", text), `begin it with "/"`)
	}
	return filepath.Clean(text)
}

// minConns is the least that a pool must allow. The signer, and a rebuild of the
// read models, each hold a connection while they want a second one: with fewer,
// both could wait for each other for ever.
const minConns = 4

// databaseURL is that of the files, even where it is empty (which asks for the
// private cluster); DATABASE_URL is used where the files have none, so that a
// variable meant for another program does not redirect this one's log.
func (t table) databaseURL() string {
	n, text, source := t.get("database_url"), t.env("DATABASE_URL"), "environment"
	at, what := position{}, "DATABASE_URL"
	if n != nil {
		if text != "" && text != n.text {
			t.warn(n.at, "database_url", "DATABASE_URL is set in the environment, too, and differs: database_url of the configuration is used")
		}
		text, source, at, what = n.text, "file", n.at, "database_url"
	} else if t.has("database_url") {
		return ""
	}
	if text == "" {
		t.record("database_url", "", n)
		return ""
	}
	if sqlAlchemyURL.MatchString(text) {
		text = sqlAlchemyURL.ReplaceAllString(text, "${1}://")
		t.warn(at, "database_url", what+" names a driver of SQLAlchemy, which has no effect")
	}
	parsed, err := pgxpool.ParseConfig(text)
	if err != nil {
		// The parser's own words may repeat the password.
		message := what + " is not a Postgres connection string"
		var path *fs.PathError
		if errors.As(err, &path) {
			message = fmt.Sprintf("%s names the file %q, which cannot be read: %s", what, path.Path, reason(err))
		}
		t.failAt(at, "database_url", message, `write it like "postgres://user:password@host:5432/database"`)
		return ""
	}
	if parsed.MaxConns < minConns {
		t.failAt(at, "database_url", fmt.Sprintf("%s allows %d connections at once (pool_max_conns), and at least %d are needed", what, parsed.MaxConns, minConns),
			fmt.Sprintf("write pool_max_conns=%d or more, or leave it out", minConns))
	}
	t.hide(parsed.ConnConfig.Password)
	v := Value{Key: "database_url", Value: maskedDatabase(parsed), Source: source, File: at.file, Line: at.line}
	t.values = append(t.values, v)
	return text
}

// maskedDatabase says where the database is; it is built from the parts that
// are not secret, so it cannot contain one.
func maskedDatabase(c *pgxpool.Config) string {
	u := url.URL{Scheme: "postgres", Path: "/" + c.ConnConfig.Database}
	u.Host = net.JoinHostPort(c.ConnConfig.Host, fmt.Sprint(c.ConnConfig.Port))
	if strings.HasPrefix(c.ConnConfig.Host, "/") {
		u.Host = ""
		u.RawQuery = "host=" + c.ConnConfig.Host + "&port=" + fmt.Sprint(c.ConnConfig.Port)
	}
	text := strings.TrimPrefix(u.String(), "postgres://")
	user := url.PathEscape(c.ConnConfig.User)
	if c.ConnConfig.Password != "" {
		user += ":" + mask.Secret
	}
	if user != "" {
		user += "@"
	}
	return "postgres://" + user + text
}

func (t table) hostPort(hostname string, port int) HostPort {
	text, n := t.string("host", hostname)
	if n != nil {
		name := t.name + ".host"
		switch {
		case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '/' }):
			t.fail(n, "host", fmt.Sprintf("%s is not a host: %q", name, text), "write a name or an address, without a port")
		case strings.ContainsAny(text, ":[]") && net.ParseIP(strings.Split(text, "%")[0]) == nil:
			t.fail(n, "host", fmt.Sprintf("%s is not a host: %q", name, text), "write a name or an address, without brackets; the port has a key of its own")
		}
	}
	return HostPort{Host: text, Port: t.int("port", port, maxPort)}
}

func (t table) lock() Lock {
	l := Lock{TTL: t.duration("ttl", defaultLockTTL)}
	if l.TTL < time.Second {
		t.failAt(t.position("ttl"), "lock.ttl", "lock.ttl must be at least 1s: the lock is refreshed several times in that time", "")
	}
	n := t.get("url")
	if n == nil || n.text == "" {
		return l
	}
	l.URL = Secret(n.text)
	u, err := url.Parse(n.text)
	known := err == nil && u.Opaque == "" && slices.Contains([]string{"redis", "rediss", "unix"}, u.Scheme)
	if !known {
		t.fail(n, "url", "lock.url must be a redis://, rediss:// or unix:// URL", `write it like "redis://localhost:6379/0"`)
		return l
	}
	options, err := redis.ParseURL(n.text)
	if err != nil {
		// The parser's own words may repeat the password.
		t.fail(n, "url", "lock.url is not a URL that the Redis client understands", `write it like "redis://user:password@host:6379/0" or "unix:///path/to/socket?db=0"`)
		return l
	}
	t.hide(options.Password)
	t.record("url", mask.URL(n.text), n)
	return l
}

func (t table) searchPaths() []string {
	const key = "executable_search_paths"
	paths, nodes := t.strings(key)
	var list []string
	for i, path := range paths {
		// A relative one would be looked up in the checkout: whoever may push
		// could then replace any program.
		if !filepath.IsAbs(path) || strings.ContainsAny(path, "\x00:") {
			t.fail(nodes[i], key, fmt.Sprintf("%s must be absolute paths without a colon, not %q", key, path), `begin it with "/"`)
			continue
		}
		list = append(list, filepath.Clean(path))
	}
	t.record(key, paths, t.get(key))
	return list
}
