// Package config owns the configuration: it reads the TOML files, says
// everything that is wrong with them at once, and hands out values that the
// rest of the program need not check again.
//
// Several files merge in order, key by key: a table is merged, any other value
// is replaced whole (lists, and so steps and sites, too) by that of the later
// file. Each file is checked by itself first, so an error is reported even
// where a later file replaces the value.
package config

import (
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"
)

// Config is a configuration that was checked. It is not changed after Load. A field
// with a toml tag is a setting, and its tags are all that there is to say of most:
// see field.
type Config struct {
	// Origin is this deployer's public URL without a trailing slash; may be empty.
	Origin string `toml:"origin" check:"origin"`
	// Instance names this deployer in the event log. Default: the name that StateDir
	// keeps since the first start, or before that the host's.
	Instance string `toml:"instance" check:"instance"`
	// OtherInstance says in a line that the name is not that of the host, or not the
	// one that StateDir keeps; empty where they agree.
	OtherInstance string
	// KeptInstance is the name that StateDir keeps; empty before the first start.
	KeptInstance string
	// StateDir is an absolute path; it need not exist yet.
	StateDir string `toml:"state_dir" check:"dir"`
	// DatabaseURL is a Postgres connection string and may contain a password;
	// empty means the private cluster in StateDir.
	DatabaseURL string `toml:"database_url" check:"database" json:"-"`
	// Secrets are the webhook secrets, any of which a delivery may be signed
	// with: those of SecretFiles, too. May be empty: see RequireSecret.
	Secrets     []Secret `toml:"webhook_secret_token" check:"secret" single:"true"`
	SecretFiles []string `toml:"webhook_secret_file" check:"secret_file" single:"true"`
	// Reconcile is how often remotes are asked for pushes that did not come; 0 is never.
	Reconcile time.Duration `toml:"reconcile" default:"5m" zero:"true"`
	// Listen is the public address, Admin the private one.
	Listen HostPort `toml:"listen"`
	Admin  Admin    `toml:"admin"`
	// AdminSet says that Admin was written down, and is not the default.
	AdminSet bool
	Lock     Lock `toml:"lock"`
	// Retention bounds what is kept of the past beside the log.
	Retention Retention `toml:"retention"`
	Work      Work      `toml:"work"`
	// SigningKeyFile is the absolute path of the key that signs checkpoints of the
	// log; empty means the one in StateDir, if it is there.
	SigningKeyFile string   `toml:"signing_key_file" check:"dir"`
	ProxyFix       ProxyFix `toml:"proxy_fix"`
	Helper         Helper   `toml:"helper"`
	GitHub         GitHub   `toml:"github"`
	// Notify is who is told of what happens.
	Notify []Notify `toml:"notify"`
	// ExecutableSearchPaths are absolute directories that are searched for a
	// step's program before PATH.
	ExecutableSearchPaths []string `toml:"executable_search_paths" check:"search_path" default:"[]"`
	// EnvFiles and Variables are those of every deployment, whose own come on top.
	EnvFiles  []string  `toml:"env_file" check:"env_file" single:"true" json:"-"`
	Variables Variables `toml:"env" json:"-"`
	// Deployments are keyed by slug. Those that this version cannot run are
	// here, too: see Problems.
	Deployments map[string]*Deployment `toml:"deployments" check:"slug"`
	// Warnings tell of settings that were accepted but have no effect, or
	// hardly the one that was meant.
	Warnings []Warning
	// Files are the files that were read, in the order of merging.
	Files []string

	origins  []Value
	sources  []source          // see Keep
	files    map[string][]byte // and what they name
	hidden   []Secret
	problems []*Error
	missing  []*Error
}

// HostPort is where a server listens. Port 0 lets the system choose.
type HostPort struct {
	Host string `toml:"host" check:"host"`
	Port int    `toml:"port" max:"65535"`
}

// String returns "host:port", with an IPv6 address in brackets.
func (h HostPort) String() string { return net.JoinHostPort(h.Host, strconv.Itoa(h.Port)) }

// Network is what to listen on: 0.0.0.0 means IPv4 alone, where Go takes it for
// every address of both kinds.
func (h HostPort) Network() string {
	if net.ParseIP(h.Host).To4() != nil {
		return "tcp4"
	}
	return "tcp"
}

// Admin is the private address, and who may act there.
type Admin struct {
	HostPort
	// URL is where people reach it through a proxy, without a trailing slash; may be empty.
	URL string `toml:"url" check:"origin"`
	// UserHeader is the header in which a proxy on loopback names who asks; empty is none.
	UserHeader string `toml:"user_header" check:"user_header"`
}

// ProxyFix counts the proxies in front whose X-Forwarded-For and
// X-Forwarded-Proto are trusted; 0 trusts none.
type ProxyFix struct {
	XFor   int `toml:"x_for" max:"16"`
	XProto int `toml:"x_proto" max:"16"`
}

// Lock is the deployment lock's server. An empty URL means flock(2).
type Lock struct {
	URL Secret        `toml:"url" check:"lock_url"`
	TTL time.Duration `toml:"ttl" default:"30s"`
}

// Work bounds the work of all deployments together.
type Work struct {
	// MaxRuns is how many runs go at once; 0 is one for each processor, at least two.
	MaxRuns int `toml:"max_runs" max:"10000"`
}

// Runs is how many runs go at once.
func (w Work) Runs() int {
	if w.MaxRuns > 0 {
		return w.MaxRuns
	}
	return max(2, runtime.NumCPU())
}

// Helper is how root is asked for what only root may.
type Helper struct {
	Socket string `toml:"socket" check:"dir" default:"/run/durhack-deployer/helper.sock"`
	// Command, where there is no systemd, is what is run in place of the socket.
	Command []string `toml:"command"`
}

// Retention says for how long things are kept; 0 is for ever.
type Retention struct {
	RunLogs time.Duration `toml:"run_logs" default:"90d" zero:"true"`
}

// The names of the handlers.
const (
	HandlerCommand = "command"
	HandlerPM2     = "pm2"
	HandlerNginx   = "nginx"
	HandlerSelf    = "self"
)

// SchemaChangeAllow is the value of Self.SchemaChange that is asked for.
const SchemaChangeAllow = "allow"

// The values of Deployment.Pending, OnInterrupt, OnFailure and Clone that are asked for.
const (
	PendingLatest     = "latest" // deploy only the newest waiting push, and not each in turn
	OnInterruptRetry  = "retry"
	OnFailureRollback = "rollback"
	StrategyReleases  = "releases"
	CloneBlobless     = "blobless"
)

// Deployment is one app: a branch of a repository that goes live in a directory.
// The order of its fields, and their names in JSON, are those of the Digest.
type Deployment struct {
	Slug string `json:"slug"`
	// Repository is "owner/name".
	Repository string `toml:"repository" check:"repository" need:"repository = \"owner/name\"" json:"repository"`
	Branch     string `toml:"branch" check:"branch" need:"branch = \"main\"" json:"branch"`
	// Path is absolute and clean.
	Path string `toml:"path" check:"path" need:"path = \"/var/www/...\"" json:"path"`
	// Remote is what git fetches from; it may contain a password.
	Remote  string `toml:"remote" check:"remote" json:"remote"`
	Enabled bool   `toml:"enabled" default:"true" json:"enabled"`
	// Handler is one of the Handler constants.
	Handler string `toml:"handler" choice:"command pm2 nginx self" json:"handler"`
	// Steps are run by the command handler, in order. It may have none: then
	// the checkout is the whole deploy.
	Steps []Step `toml:"steps" json:"steps,omitempty"`
	// Timeout bounds the whole deploy.
	Timeout     time.Duration `toml:"timeout" default:"30m" json:"timeout_ns"`
	Pending     string        `toml:"pending" choice:"every latest" default:"every" json:"pending"`
	OnInterrupt string        `toml:"on_interrupt" choice:"retry fail" default:"retry" json:"on_interrupt"`
	// Submodules and Tags say that a deploy includes them.
	Submodules bool `toml:"submodules" json:"submodules,omitempty"`
	Tags       bool `toml:"tags" json:"tags,omitempty"`
	// Clone says what a new clone has: everything, which is empty, too, or not the
	// files of the past.
	Clone  string `toml:"clone" choice:"full blobless" json:"clone,omitempty"`
	Health `toml:"health" single:"url"`

	InstanceName    string     `toml:"instance_name" check:"instance_name" json:"instance_name,omitempty"` // pm2
	Sites           []SiteRule `toml:"sites" json:"sites,omitempty"`                                       // nginx
	SystemdUnitName string     `toml:"systemd_unit_name" check:"unit" json:"systemd_unit_name,omitempty"`  // self
	Self            Self       `toml:"self" json:"self,omitzero"`
	UWSGIConfigPath string     `toml:"uwsgi_config_path" check:"uwsgi" json:"-"` // self, in the Python deployer; has no effect

	// FetchTimeout bounds what git gets from the remote; 0 is no bound of its own.
	FetchTimeout time.Duration `toml:"fetch_timeout" json:"fetch_timeout_ns,omitempty"`
	// Nice is added to the niceness of the steps.
	Nice int `toml:"nice" max:"19" json:"nice,omitempty"`
	// MemoryMax and TasksMax bound what the programs of a run use together; 0 is no bound.
	MemoryMax Size     `toml:"memory_max" json:"memory_max,omitempty"`
	TasksMax  int      `toml:"tasks_max" max:"4194304" json:"tasks_max,omitempty"`
	EnvFiles  []string `toml:"env_file" check:"env_file" single:"true" json:"-"`
	Variables `toml:"env"`
	// Strategy is where a commit is put: into Path itself, or into a release of its own,
	// of which the last Keep stay, with what is Shared by all.
	Strategy string   `toml:"strategy" choice:"in-place releases" json:"strategy,omitempty"`
	Keep     int      `toml:"keep" max:"1000" json:"keep,omitempty"`
	Shared   []string `toml:"shared" check:"shared" json:"shared,omitempty"`
	// OnFailure says what becomes of a deploy that failed.
	OnFailure string `toml:"on_failure" choice:"none rollback" json:"on_failure,omitempty"`
	// Restart and Reload are units of systemd that root restarts and reloads in the end.
	Restart []string `toml:"restart" check:"unit" json:"restart,omitempty"`
	Reload  []string `toml:"reload" check:"unit" json:"reload,omitempty"`
	// Key is the private key that ssh shows a remote, an absolute path that needs no quotes; empty
	// leaves it to ssh.
	Key string `toml:"key" check:"key" json:"key,omitempty"`
	// User is who the programs of a run are run as; empty is the daemon's own. Umask is
	// theirs, in octal digits; empty leaves it.
	User  string `toml:"user" check:"user" json:"user,omitempty"`
	Umask string `toml:"umask" check:"umask" json:"umask,omitempty"`
	// Env are the variables, NAME=value, that git and every step get beside those
	// that always are passed on: those of Variables.
	Env []string `json:"-"`

	// SiteURL is where the app is live, for people; may be empty.
	SiteURL string `toml:"url" check:"site_url" json:"url,omitempty"`

	PM2
	Nginx

	// Digest is hex SHA-256 of MarshalJSON, and so of the effective settings. It
	// depends neither on the order of files and keys nor on formatting.
	Digest string `json:"-"`

	at position
}

// Step is one command of a deployment.
type Step struct {
	Name string `toml:"name" check:"step_name" need:"name = \"build\"" json:"name"`
	// Run is the program and its arguments; no shell is involved.
	Run []string `toml:"run" need:"run = [\"program\", \"argument\"]" json:"run"`
	// Dir is relative to the deployment's path and inside it; "" is the path itself.
	Dir string            `toml:"dir" check:"step_dir" json:"dir,omitempty"`
	Env map[string]string `toml:"env" json:"env,omitempty"`
	// Timeout is 0 where only the deployment's own counts.
	Timeout time.Duration `toml:"timeout" json:"timeout_ns,omitempty"`
}

// Health is how to see that a deployment works: URL is asked, or Command is run. Both
// are empty where it was not set.
type Health struct {
	URL     string   `toml:"url" check:"health" json:"health_url,omitempty"`
	Command []string `toml:"command" check:"argument" json:"health_command,omitempty"`
	Expect  Expect   `toml:"expect" single:"text" json:"health_expect,omitzero"`
	// Timeout bounds the whole check; the answers are Interval apart, and so many
	// Successes have to follow each other.
	Timeout   time.Duration `toml:"timeout" default:"30s" json:"health_timeout_ns,omitempty"`
	Interval  time.Duration `toml:"interval" default:"1s" json:"health_interval_ns,omitempty"`
	Successes int           `toml:"successes" default:"1" max:"1000" json:"health_successes,omitempty"`
}

// Expect is the answer of Health.URL that is healthy. A Status of 0 is any from 200 to 299.
type Expect struct {
	Status int    `toml:"status" max:"599" json:"status,omitempty"`
	Text   string `toml:"text" json:"text,omitempty"`
}

// PM2 is what the pm2 handler is told beside instance_name. What was not written is
// preset after the Digest was made.
type PM2 struct {
	// Workspaces are directories of packages, relative to the deployment's path.
	Workspaces []string `toml:"workspaces" check:"inner_path" preset:"server" json:"workspaces,omitempty"`
	Ecosystem  string   `toml:"ecosystem" check:"inner_path" preset:"ecosystem.config.js" json:"ecosystem,omitempty"`
	// Migrate is run by pnpm in the first workspace; an empty list runs nothing.
	Migrate []string `toml:"migrate" check:"argument" preset:"prisma migrate deploy" json:"migrate,omitzero"`
	Scripts []string `toml:"scripts" check:"pnpm_script" preset:"generate build" json:"scripts,omitzero"`
	Install []string `toml:"install" check:"argument" preset:"--frozen-lockfile" json:"install,omitzero"`
	// PM2Home is PM2_HOME; empty is .pm2 in HOME.
	PM2Home   string        `toml:"pm2_home" check:"pm2_home" json:"pm2_home,omitempty"`
	Settle    time.Duration `toml:"settle" preset:"10s" json:"settle_ns,omitempty"`
	PM2Reload bool          `toml:"pm2_reload" json:"pm2_reload,omitempty"`
}

// Nginx is what the nginx handler is told beside sites, and preset likewise.
type Nginx struct {
	// ConfDir and SnippetsDir are nginx's own.
	ConfDir     string `toml:"conf_dir" check:"dir" preset:"/etc/nginx/conf.d" json:"conf_dir,omitempty"`
	SnippetsDir string `toml:"snippets_dir" check:"dir" preset:"/etc/nginx/snippets" json:"snippets_dir,omitempty"`
	// Production and Snippets are directories of the repository, LocalLive one beside
	// them that git does not track.
	Production   string       `toml:"production" check:"inner_path" preset:"production" json:"production,omitempty"`
	Snippets     string       `toml:"snippets" check:"inner_path" preset:"snippets" json:"snippets,omitempty"`
	LocalLive    string       `toml:"local_live" check:"inner_path" preset:"local-live" json:"local_live,omitempty"`
	NginxUnit    string       `toml:"unit" check:"unit" preset:"nginx" json:"unit,omitempty"`
	PIDFile      string       `toml:"pid_file" check:"dir" preset:"/run/nginx.pid" json:"pid_file,omitempty"`
	Certificates Certificates `toml:"certificates" single:"authenticator" json:"certificates,omitzero"`
	// What site files may do: see docs/handlers/nginx.md.
	AllowDirectives []string `toml:"allow_directives" check:"directive" json:"allow_directives,omitempty"`
	IncludePaths    []string `toml:"include_paths" check:"dir" preset:"/etc/nginx/ /etc/letsencrypt/" json:"include_paths,omitempty"`
	LogPaths        []string `toml:"log_paths" check:"dir" preset:"/var/log/nginx/" json:"log_paths,omitempty"`
	// NginxCommand and Certbot are programs, with arguments that they always get, that the
	// deployer runs itself; where they are empty the helper does.
	NginxCommand []string `toml:"nginx" check:"argument" json:"nginx,omitempty"`
	Certbot      []string `toml:"certbot" check:"argument" json:"certbot,omitempty"`
}

// Certificates are those of the nginx handler. The CA, the account and the webroot are
// for a deployer that runs certbot itself; else they are in the helper's rules.
type Certificates struct {
	Authenticator string        `toml:"authenticator" choice:"nginx webroot none" default:"nginx" json:"authenticator,omitempty"`
	Webroot       string        `toml:"webroot" check:"dir" json:"webroot,omitempty"`
	Server        string        `toml:"server" check:"argument" json:"server,omitempty"`
	Email         string        `toml:"email" check:"argument" json:"email,omitempty"`
	RenewBefore   time.Duration `toml:"renew_before" default:"720h" json:"renew_before_ns,omitempty"`
}

// Self is how the deployer deploys itself. What is zero has a default of the handler's.
type Self struct {
	// Dir holds the releases, and the link to the one that runs.
	Dir string `toml:"dir" check:"path" json:"dir,omitempty"`
	// ReadyFor is how long a new version must be ready, Probation how long it may take.
	ReadyFor  time.Duration `toml:"ready_for" json:"ready_for_ns,omitempty"`
	Probation time.Duration `toml:"probation" json:"probation_ns,omitempty"`
	// SchemaChange says whether a commit may change the database's schema, from which
	// there is no way back.
	SchemaChange string `toml:"schema_change" choice:"refuse allow" json:"schema_change,omitempty"`
}

// SiteRule is one filter of the nginx handler; the last rule that selects a
// site decides, and a site that no rule selects is excluded.
type SiteRule struct {
	Rule string `toml:"rule" choice:"include exclude" need:"rule = \"include\" or rule = \"exclude\"" json:"rule"`
	// Select are site names, or "*" for all.
	Select []string `toml:"select" check:"site" need:"select = [\"site.example.com\"], or \"*\" in it for all" json:"select"`
}

// Variables are what git and the steps of a deployment get: with those around it,
// and those of env_file.
type Variables struct {
	// Pass are the names of the daemon's own variables that are passed on.
	Pass []string `toml:"pass" check:"pass" json:"env_names,omitempty"`
	// Set are set; their values may be secret.
	Set map[string]string `json:"env,omitempty"`
}

// Slugs returns the deployments' slugs, sorted.
func (c *Config) Slugs() []string { return sortedKeys(c.Deployments) }

// QueueDir is the directory of a queue: of a deployment, or the main one.
func (c *Config) QueueDir(name string) string { return filepath.Join(c.StateDir, "queues", name) }

// RequireSecret is an *Error where there is no webhook secret. The parts that
// listen call it; a worker needs none.
func (c *Config) RequireSecret() error {
	if len(c.Secrets) > 0 {
		return nil
	}
	return &Error{
		Key:     "webhook_secret_token",
		Message: "no webhook secret is set, so no delivery could be told from a forged one",
		Suggestion: `set webhook_secret_file = "/path/to/a/file", or webhook_secret_token = "...", or give systemd LoadCredential=webhook_secret:/path/to/a/file; ` +
			"and enter the same secret in the webhook's settings at GitHub",
	}
}

// Problems lists what keeps a worker from starting: files that this user cannot use.
// Load accepts them, so that a configuration can be shown, and commands work.
func (c *Config) Problems() []*Error { return slices.Clone(c.problems) }

// Missing lists the credentials that cannot be used for telling GitHub or people. A
// worker starts without them: pushes do not need them.
func (c *Config) Missing() []*Error { return slices.Clone(c.missing) }

// Refused is the error that the deployment cannot be run, and why.
func (d *Deployment) Refused(why, suggestion string) *Error {
	return &Error{
		File: d.at.file, Line: d.at.line, Column: d.at.column, Key: join("deployments", d.Slug),
		Message: "deployment " + strconv.Quote(d.Slug) + " is refused: " + why, Suggestion: suggestion,
	}
}

// Hidden returns every value that must not appear in a run's log: the webhook
// secrets, the passwords inside of URLs, and the values of step variables whose
// names tell that they are secret.
func (c *Config) Hidden() []Secret { return append([]Secret(nil), c.hidden...) }

// String names the configuration without its values, some of which are secret.
func (c Config) String() string {
	return "config of " + strconv.Quote(c.Instance) + " with " + strconv.Itoa(len(c.Deployments)) + " deployments"
}

// GoString implements fmt.GoStringer: "%#v" must not show passwords, either.
func (c Config) GoString() string { return c.String() }

// LogValue implements slog.LogValuer.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// String names the deployment without its values; Remote may contain a password.
func (d Deployment) String() string { return "deployment " + strconv.Quote(d.Slug) }

// GoString implements fmt.GoStringer.
func (d Deployment) GoString() string { return d.String() }

// LogValue implements slog.LogValuer.
func (d Deployment) LogValue() slog.Value { return slog.StringValue(d.String()) }
