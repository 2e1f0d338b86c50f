package daemon

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/handlers/command"
	"github.com/ducompsoc/durhack-deployer/handlers/health"
	"github.com/ducompsoc/durhack-deployer/handlers/nginx"
	"github.com/ducompsoc/durhack-deployer/handlers/pm2"
	"github.com/ducompsoc/durhack-deployer/handlers/releases"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	"github.com/ducompsoc/durhack-deployer/internal/mirror"
	"github.com/ducompsoc/durhack-deployer/internal/process"
	"github.com/ducompsoc/durhack-deployer/internal/worker"
)

// Handler is the handler that the configuration of a deployment asks for.
func Handler(cfg *config.Config, d *config.Deployment) (handlers.Handler, error) {
	h, _, err := handlerOf(Options{Config: cfg}, d)
	return h, err
}

// handlerOf is the handler as a daemon has it; resumer is nil where its runs end in the
// process that began them.
func handlerOf(o Options, d *config.Deployment) (_ handlers.Handler, resumer handlers.Resumer, err error) {
	h, err := kindOf(o, d)
	if err != nil {
		return nil, nil, err
	}
	resumer, _ = h.(handlers.Resumer)
	h = handlers.Ending(h, d.Restart, d.Reload)
	dir := ""
	if d.Strategy == config.StrategyReleases {
		dir = releases.Current
	}
	if d.Health.URL != "" || len(d.Health.Command) > 0 {
		h = health.Checked(h, sourceOf(o.Config, d), health.Config{
			URL: d.Health.URL, Command: d.Health.Command, Dir: dir, Status: d.Health.Expect.Status, Text: d.Health.Expect.Text,
			Timeout: d.Health.Timeout, Interval: d.Health.Interval, Successes: d.Health.Successes,
		})
	}
	if d.Strategy == config.StrategyReleases {
		h = releases.Pruned(h, releasesOf(d))
	}
	return h, resumer, nil
}

// releasesOf names a build by all that goes into one beside the commit.
func releasesOf(d *config.Deployment) releases.Config {
	what := []any{d.Steps, d.Env, d.Shared, d.Submodules, d.Tags}
	if d.Handler == config.HandlerPM2 {
		what = append(what, d.InstanceName, d.Workspaces, d.Migrate, d.Scripts, d.Install)
	}
	build, _ := json.Marshal(what) // text and numbers cannot fail to marshal
	return releases.Config{Path: d.Path, Keep: d.Keep, Shared: d.Shared, Build: fmt.Sprintf("%x", sha256.Sum256(build))}
}

// As is with whose rights a deployment runs, and the error that its user is not to be had
// here: what then is read is read as nobody, or as ourselves where we are not root.
func As(d *config.Deployment) (handlers.As, error) {
	as, err := process.AsUser(d.User, config.Umask(d.Umask))
	if notRoot, ok := errors.AsType[*process.NotRootError](err); ok {
		err = fmt.Errorf(`user = %q: %w; run the daemon as root, as "Steps of another user" in docs/operations.md says, or remove user`, d.User, notRoot)
	} else if err != nil {
		err = fmt.Errorf("user = %q: %w; add it (useradd --system --create-home %[1]s), or name another", d.User, err)
	}
	return as, err
}

// storeOf is where a deployment keeps what it shares with others of its remote. Those of
// another user share nothing with others: who can write to it could change their files.
func storeOf(cfg *config.Config, d *config.Deployment) string {
	switch {
	case d.User == "":
		return stores(cfg)
	case d.Strategy == config.StrategyReleases:
		return filepath.Join(d.Path, "objects")
	}
	return ""
}

func sourceOf(cfg *config.Config, d *config.Deployment) source.Source {
	return source.Source{
		Path: d.Path, Remote: d.Remote, SearchPaths: cfg.ExecutableSearchPaths, FetchTimeout: d.FetchTimeout,
		Submodules: d.Submodules, Tags: d.Tags, Store: storeOf(cfg, d), Blobless: d.Clone == config.CloneBlobless,
		Key: d.Key, KnownHosts: knownHosts(cfg),
	}
}

// kindOf is the handler of the deployment's kind.
func kindOf(o Options, d *config.Deployment) (handlers.Handler, error) {
	cfg := o.Config
	if err := checkKey(d); err != nil {
		return nil, fmt.Errorf("deployment %q: %w", d.Slug, err)
	}
	src := sourceOf(cfg, d)
	switch d.Handler {
	case config.HandlerSelf:
		return selfHandler(cfg, d, src, o)
	case config.HandlerPM2:
		c := pm2Config(cfg, d)
		return released(src, d, func(src source.Source) handlers.Handler {
			c.Source = src
			return pm2.New(c)
		}), nil
	case config.HandlerNginx:
		return Nginx(cfg, d), nil
	}
	steps := make([]command.StepConfig, len(d.Steps))
	for i, s := range d.Steps {
		steps[i] = command.StepConfig(s)
	}
	return released(src, d, func(src source.Source) handlers.Handler {
		return command.New(command.Config{Source: src, Steps: steps})
	}), nil
}

// released is a handler that works in releases, where the deployment has them.
func released(src source.Source, d *config.Deployment, in func(source.Source) handlers.Handler) handlers.Handler {
	if d.Strategy == config.StrategyReleases {
		return releases.New(src, releasesOf(d), in)
	}
	return in(src)
}

// PM2 is the handler of a deployment whose apps run under pm2, for what is live.
func PM2(cfg *config.Config, d *config.Deployment) *pm2.Handler { return pm2.New(pm2Config(cfg, d)) }

func pm2Config(cfg *config.Config, d *config.Deployment) pm2.Config {
	c := pm2.Config{
		Source: sourceOf(cfg, d), Instance: d.InstanceName, Workspaces: d.Workspaces, Ecosystem: d.Ecosystem, Migrate: d.Migrate,
		Scripts: d.Scripts, Install: d.Install, Env: d.Env, Home: d.PM2Home, Settle: d.Settle, Reload: d.PM2Reload,
		Definition: definition(cfg, d),
	}
	if d.Strategy == config.StrategyReleases {
		c.Current = filepath.Join(d.Path, releases.Current)
	}
	return c
}

// Nginx is the handler of a deployment of nginx's sites.
func Nginx(cfg *config.Config, d *config.Deployment) *nginx.Handler {
	rules := make([]nginx.Rule, len(d.Sites))
	for i, s := range d.Sites {
		rules[i] = nginx.Rule{Include: s.Rule == "include", Select: s.Select}
	}
	return nginx.New(nginx.Config{
		Source: sourceOf(cfg, d), Rules: rules, ConfDir: d.ConfDir, SnippetsDir: d.SnippetsDir,
		Production: d.Production, Snippets: d.Snippets, LocalLive: d.LocalLive, Unit: d.NginxUnit, PIDFile: d.PIDFile,
		Certificates:    nginx.Certificates{Authenticator: d.Certificates.Authenticator, Directory: certbotDir(d), RenewBefore: d.Certificates.RenewBefore},
		AllowDirectives: d.AllowDirectives, IncludePaths: d.IncludePaths, LogPaths: d.LogPaths,
		StateFile: filepath.Join(cfg.StateDir, "nginx", d.Slug+".json"),
	})
}

// definition is the file that pm2 reads: where the user who runs pm2 can.
func definition(cfg *config.Config, d *config.Deployment) string {
	dir := filepath.Join(cfg.StateDir, "pm2")
	if as, _ := As(d); as.User != nil {
		dir = filepath.Join(cmp.Or(d.PM2Home, filepath.Join(as.User.Home, ".pm2")), "durhack-deployer")
	}
	return filepath.Join(dir, d.Slug+".json")
}

// Repository is the clone whose history is asked: the one that a deployment works in,
// or one beside its releases.
func Repository(cfg *config.Config, d *config.Deployment) *git.Repo {
	return repositoryIn(cfg, d, "repo")
}

// Tree is the clone with what is live.
func Tree(cfg *config.Config, d *config.Deployment) *git.Repo {
	return repositoryIn(cfg, d, releases.Current)
}

func repositoryIn(cfg *config.Config, d *config.Deployment, besideReleases string) *git.Repo {
	dir := d.Path
	if d.Strategy == config.StrategyReleases {
		dir = filepath.Join(dir, besideReleases)
	}
	as, _ := As(d) // whoever runs something was told
	return git.Open(dir, d.Remote, git.Options{
		As: as, Base: d.Path, Vars: Environment(cfg, d), SearchPaths: cfg.ExecutableSearchPaths, Submodules: d.Submodules, Tags: d.Tags,
		Store: storeOf(cfg, d), Blobless: d.Clone == config.CloneBlobless,
		Key: d.Key, KnownHosts: knownHosts(cfg),
	})
}

// stores is where what deployments of one remote share is kept.
func stores(cfg *config.Config) string { return filepath.Join(cfg.StateDir, "repos") }

// Environment is what programs of a deployment get outside of a run.
func Environment(cfg *config.Config, d *config.Deployment) []string {
	as, _ := As(d)
	return handlers.EnvironmentAs(as, handlers.Job{Deployment: d.Slug, Branch: d.Branch}, d.Env, cfg.ExecutableSearchPaths)
}

// clone is a git.Repo as the worker wants to ask it.
type clone struct {
	*git.Repo
	fetchTimeout time.Duration // 0 is none
}

// patient is a Repo that writes what it waits for to out.
func (c clone) patient(ctx context.Context, out io.Writer) (*git.Repo, context.Context, context.CancelFunc) {
	cancel := func() {}
	if c.fetchTimeout > 0 {
		ctx, cancel = context.WithTimeoutCause(ctx, c.fetchTimeout, fmt.Errorf("no answer within the fetch_timeout of %s", c.fetchTimeout))
	}
	return c.Patient(git.DefaultPatience, func(why string) { _, _ = fmt.Fprintln(out, why) }), ctx, cancel
}

func (c clone) FetchHistory(ctx context.Context, branch, commit string, out io.Writer) error {
	repo, ctx, cancel := c.patient(ctx, out)
	defer cancel()
	return repo.FetchHistory(ctx, branch, commit, out)
}

func (c clone) TipAfter(ctx context.Context, branch, before string, out io.Writer) (string, error) {
	repo, ctx, cancel := c.patient(ctx, out)
	defer cancel()
	tip, err := repo.TipAfter(ctx, branch, before)
	if errors.Is(err, git.ErrRefNotFound) {
		return "", nil
	}
	return tip, err
}

// tidyWithin bounds the tidying of a clone after a run.
const tidyWithin = 10 * time.Minute

// tidy packs the objects of a deployment's clone. It ends when ctx does: a push has come.
func tidy(ctx context.Context, repo *git.Repo, log *slog.Logger) {
	ctx, cancel := context.WithTimeoutCause(ctx, tidyWithin, fmt.Errorf("it took longer than %s", tidyWithin))
	defer cancel()
	begin := time.Now()
	done, err := repo.Tidy(ctx)
	for _, d := range done {
		log.Info("packed the objects of a clone", "directory", d.Dir, "packs_before", d.Before, "packs_after", d.After, "took", time.Since(begin).Round(time.Millisecond).String())
	}
	switch {
	case err == nil, errors.Is(context.Cause(ctx), context.Canceled): // again after the next run
	default:
		log.Warn("the objects of a clone cannot be packed; deploys go on, and it is tried again after the next one", "error", err)
	}
}

// runWorker runs the worker of one deployment until ctx ends.
func runWorker(ctx context.Context, o Options, store *Store, locker worker.Locker, queues *queueSet, m *mirror.Mirror, slots *worker.Slots, limits *limiter, d *config.Deployment) error {
	var handler handlers.Handler
	var resumer handlers.Resumer
	as, err := As(d)
	if d.Enabled { // a disabled one voids what still waits, and runs nothing
		if err != nil {
			return err
		}
		if handler, resumer, err = handlerOf(o, d); err != nil {
			return err
		}
	}
	q, err := queues.get(d.Slug)
	if err != nil {
		return err
	}
	watch, err := q.Watch()
	if err != nil {
		return fmt.Errorf("watch the queue of %s: %w", d.Slug, err)
	}
	defer func() { _ = watch.Close() }()
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("ask for the name of this host: %w", err)
	}
	repo := Repository(o.Config, d)
	return worker.New(worker.Options{
		Instance: o.Config.Instance, Host: host, Handler: handler, Repository: clone{repo, d.FetchTimeout},
		Deployment: worker.Deployment{
			Slug: d.Slug, Repository: d.Repository, Path: d.Path, Enabled: d.Enabled,
			LatestOnly:       d.Pending == config.PendingLatest,
			RetryInterrupted: d.OnInterrupt == config.OnInterruptRetry,
			Restore:          d.OnFailure == config.OnFailureRollback,
			Timeout:          d.Timeout,
			Nice:             d.Nice,
		},
		Queue: watch, Files: q, Log: store.Log, Locker: locker, Waits: m.Waits, Control: m, Slots: slots,
		RunsDir: runsDir(o.Config), Secrets: hidden(o.Config), Root: root{Root(o.Config, d)}, Resumer: resumer, Limit: limits.of(d),
		As: as, Vars: d.Env, SearchPaths: o.Config.ExecutableSearchPaths, Logger: o.Logger,
		Idle: func(ctx context.Context) { tidy(ctx, Tree(o.Config, d), o.Logger.With("deployment", d.Slug)) },
	}).Run(ctx)
}

// hidden are the secrets of the configuration.
func hidden(cfg *config.Config) (texts []string) {
	for _, s := range cfg.Hidden() {
		texts = append(texts, s.Reveal())
	}
	return texts
}
