package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// minReconcile spares the remotes.
const minReconcile = 10 * time.Second

// maxInstanceFile bounds the file that keeps the name of the instance, in bytes.
const maxInstanceFile = 1 << 10

var instanceForeign = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// settle adds to what the files say what follows from it, from the environment
// and from this host, and checks what only the whole can tell.
func (d *decoder) settle(c *Config) {
	d.stateDir(c)
	d.databaseURL(c)
	d.credential()
	c.Secrets = d.secrets
	d.github(c)
	d.servers(c)
	if c.Lock.TTL < time.Second {
		d.fail(d.place("lock.ttl", "lock"), "lock.ttl", "lock.ttl must be at least 1s: the lock is refreshed several times in that time", "")
	}
	if c.Reconcile > 0 && c.Reconcile < minReconcile {
		d.fail(d.place("reconcile"), "reconcile", fmt.Sprintf("reconcile must be at least %s: each remote is asked as often", minReconcile), `or "0", which is never`)
	}
	d.instance(c)
	d.deployments(c)
	d.notify(c)
	c.origins, c.hidden, c.Warnings = sortValues(d.values), d.hidden, d.warnings
}

func (d *decoder) servers(c *Config) {
	c.AdminSet = d.has("admin.host") || d.has("admin.port")
	if ip := net.ParseIP(c.Admin.Host); c.Admin.Host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		d.warn(d.place("admin.host", "admin"), "admin.host", fmt.Sprintf("admin.host %q may be reached from other machines, and the admin pages ask for no password", c.Admin.Host))
	}
	if u, err := url.Parse(c.Admin.URL); err == nil && u.Host != "" && u.Path != "" {
		d.fail(d.place("admin.url", "admin"), "admin.url", fmt.Sprintf("admin.url has the path %q, but the pages begin at the root of a host", u.Path), "give the dashboard its own name")
	}
	if c.Listen == c.Admin.HostPort && c.Listen.Port != 0 {
		d.fail(d.place("admin.port", "admin", "listen.port", "listen"), "admin.port", fmt.Sprintf("listen and admin are both %s", c.Listen), "give them different ports")
	}
}

// InstanceFile is where a state_dir keeps the name of its instance.
func InstanceFile(stateDir string) string { return filepath.Join(stateDir, "instance") }

// instance is the name that the files give; else the one that state_dir keeps, so
// that a host that is called otherwise now goes on with its history; else the host's.
func (d *decoder) instance(c *Config) {
	s, file := d.setting("instance"), InstanceFile(c.StateDir)
	kept, err := d.on.read(file, maxInstanceFile)
	if c.KeptInstance = strings.TrimSpace(string(kept)); err == nil && !names.Plain(c.KeptInstance) {
		err = errors.New("it does not hold the name of an instance")
	}
	if err != nil {
		c.KeptInstance = ""
		if !errors.Is(err, fs.ErrNotExist) {
			d.warn(position{}, s.key, fmt.Sprintf("the name of the instance cannot be read from %s: %s", file, reason(err)))
		}
	}
	host := d.hostInstance()
	switch {
	case d.has(s.key):
		if c.KeptInstance != "" && c.KeptInstance != c.Instance {
			c.OtherInstance = fmt.Sprintf("instance %q is set, but %s is that of instance %q since its first start: what was ordered there waits for a daemon of that name; "+
				"set instance = %[3]q, or remove %[4]s to stay with %[1]q", c.Instance, c.StateDir, c.KeptInstance, file)
		}
	case c.KeptInstance == "":
		c.Instance = host
		s.show(host, "default")
	default:
		c.Instance = c.KeptInstance
		if host != c.KeptInstance {
			c.OtherInstance = fmt.Sprintf("this host is called %q now, but the instance stays %q, as %s keeps it; set instance = %[2]q to say that this is right", host, c.Instance, file)
		}
		s.show(c.Instance, "state_dir")
	}
	if c.OtherInstance != "" {
		s.warn(c.OtherInstance)
	}
}

// hostInstance is the host's name as that of an instance.
func (d *decoder) hostInstance() string {
	name := ""
	if hostname, err := d.on.name(); err == nil {
		name = strings.TrimLeft(instanceForeign.ReplaceAllString(hostname, "-"), "_.-")
		name = name[:min(len(name), 64)]
	}
	if name == "" {
		name = "localhost"
	}
	return name
}

func (d *decoder) stateDir(c *Config) {
	s := d.setting("state_dir")
	if d.has(s.key) {
		return
	}
	const system = "/var/lib/durhack-deployer"
	source := "default"
	c.StateDir = system
	unit, xdg, home := unitStateDir(d.env), d.env("XDG_STATE_HOME"), d.env("HOME")
	switch {
	case unit != "":
		c.StateDir, source = unit, "environment"
	case d.on.root || d.on.writable(system):
	case filepath.IsAbs(xdg):
		c.StateDir, source = filepath.Join(xdg, "durhack-deployer"), "environment"
	case filepath.IsAbs(home):
		c.StateDir = filepath.Join(home, ".local", "state", "durhack-deployer")
	default:
		s.fail("there is no directory to keep state in: this user cannot write to "+system+" and has no home directory", "set state_dir")
	}
	s.show(c.StateDir, source)
}

// databaseURL is that of the files, even where it is empty (which asks for the
// private cluster); DATABASE_URL is used where the files have none, so that a
// variable meant for another program does not redirect this one's log.
func (d *decoder) databaseURL(c *Config) {
	s, text := d.setting("database_url"), d.env("DATABASE_URL")
	switch {
	case d.has(s.key):
		if text != "" && withoutDriver(text) != c.DatabaseURL {
			s.warn("DATABASE_URL is set in the environment, too, and differs: database_url of the configuration is used")
		}
	case text == "":
		s.show("", "default")
	default:
		s.name = "DATABASE_URL"
		c.DatabaseURL = checkDatabase(s, text)
		shown := d.values[s.key]
		shown.Source = "environment"
		d.values[s.key] = shown
	}
}
