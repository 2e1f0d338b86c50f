package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	"github.com/ducompsoc/durhack-deployer/internal/process"
	"github.com/ducompsoc/durhack-deployer/internal/signer"
	"github.com/ducompsoc/durhack-deployer/migrations"
	"github.com/ducompsoc/durhack-deployer/projections"
)

const (
	// minPostgres is the oldest server that the schema works on.
	minPostgres = 15
	// connectWithin bounds the question to the database, remoteWithin that to a remote.
	connectWithin = 10 * time.Second
	remoteWithin  = 15 * time.Second
	// remotesAtOnce are asked at a time.
	remotesAtOnce = 4
	// skewAllowed is how far this clock and the database's may be apart.
	skewAllowed = 5 * time.Second
)

// released is when this program did not exist yet: a clock before it is wrong.
var released = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (d *doctor) database(ctx context.Context) {
	if time.Now().Before(released) {
		d.say(Fail, "set the clock (timedatectl)", "this host's clock says %s", time.Now().Format(time.DateOnly))
	}
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	if d.cfg.DatabaseURL == "" {
		dir := daemon.PrivateCluster(d.cfg)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			d.say(OK, "", "a private Postgres will be made in %s by the first start", dir)
			return
		}
	} else if !d.server(ctx) {
		return
	}
	store, err := daemon.OpenStore(ctx, d.cfg, d.log, false)
	if d.failed(err, daemon.StoreHint(err)) {
		return
	}
	defer store.Close()
	if d.cfg.DatabaseURL == "" {
		d.inspect(ctx, store)
	}
	if events, err := daemon.Overlooked(ctx, d.cfg, store, d.log); err != nil {
		d.say(Warn, "", "%s", oneLine(err))
	} else if events > 0 {
		d.say(Warn, "carry it over (`log export` without database_url, `log import` with it), or move that directory away",
			"the log of database_url is empty, but the private Postgres in %s holds %s", daemon.PrivateCluster(d.cfg), counted(int(events), "event"))
	}
	d.check = "queues"
	d.instance(ctx, store)
	d.check = "projections"
	lag, err := projections.New(store.Pool, store.Log, d.log).Lag(ctx)
	if d.failed(err, "") {
		return
	}
	trouble := daemon.ProjectionTrouble(lag)
	switch {
	case errors.As(lag.Err, new(*projections.AheadError)):
		d.say(Fail, "`projections rebuild`; `verify` says whether the log is whole", "%s", trouble)
	case lag.Err != nil:
		d.say(Fail, "run the durhack-deployer that wrote the event; `verify` says whether the log is whole", "%s", trouble)
	case trouble != "":
		d.say(Warn, "is `work` or `serve` running? `projections rebuild` does it at once", "%s", trouble)
	default:
		d.say(OK, "", "%s: version %d, %s behind the log", lag.Name, lag.Version, counted(int(lag.Events), "event"))
	}
	d.signer(ctx, store)
	d.outbox(ctx, store)
}

// signer looks at what vouches for the log, and whether the log still is what it
// vouched for.
func (d *doctor) signer(ctx context.Context, store *daemon.Store) {
	d.check = "signer"
	key, err := daemon.SigningKey(d.cfg)
	if d.failed(err, "nothing is signed until the key can be used") {
		return
	}
	if key == nil {
		d.say(Warn, "the first start of `serve` or `work` makes it, and so does `keygen`", "the log is not signed yet: there is no key")
		return
	}
	unsigned, err := daemon.NewSigner(daemon.Options{Config: d.cfg, Logger: d.log}, store, key).Check(ctx)
	var refused *signer.RefusedError
	switch {
	case errors.As(err, &refused):
		d.say(Fail, "`durhack-deployer verify` says where; see docs/operations.md", "%s", oneLine(err))
	case err != nil:
		d.say(Fail, "nothing is signed until this is fixed", "%s", oneLine(err))
	case unsigned.Events > 0 && time.Since(unsigned.Since) > signer.Overdue:
		d.say(Fail, "`checkpoint` signs them now, or says why not; so does the log of `serve` or `work`, which should have done it",
			"%s not signed, the first of them since %s", counted(int(unsigned.Events), "event"), unsigned.Since.Format(time.RFC3339))
	default:
		d.say(OK, "", "%s signs, and the log has grown by %s since the last checkpoint", key.Name(), counted(int(unsigned.Events), "event"))
	}
}

// server looks at a server of somebody's own, before its schema is relied on.
func (d *doctor) server(ctx context.Context) bool {
	conn, err := pgx.Connect(ctx, d.cfg.DatabaseURL)
	if d.failed(err, daemon.StoreHint(err)) {
		return false
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := migrations.Check(ctx, conn); err != nil {
		d.say(Fail, daemon.StoreHint(err), "%s", oneLine(err))
		return false
	}
	return d.ask(ctx, conn)
}

// inspect is server for the private cluster.
func (d *doctor) inspect(ctx context.Context, store *daemon.Store) {
	conn, err := store.Pool.Acquire(ctx)
	if d.failed(err, "") {
		return
	}
	defer conn.Release()
	d.ask(ctx, conn.Conn())
}

// ask asks an open connection of version, roles and clock.
func (d *doctor) ask(ctx context.Context, conn *pgx.Conn) bool {
	var number int
	var version string
	var theirs time.Time
	before := time.Now()
	err := conn.QueryRow(ctx, "select current_setting('server_version_num')::int, current_setting('server_version'), clock_timestamp()").Scan(&number, &version, &theirs)
	if d.failed(err, "") {
		return false
	}
	after := time.Now()
	if number/10000 < minPostgres {
		d.say(Fail, fmt.Sprintf("use Postgres %d or newer", minPostgres), "Postgres %s", version)
		return false
	}
	if skew := max(before.Sub(theirs), theirs.Sub(after)); skew > skewAllowed {
		d.say(Warn, "set both clocks by NTP; order does not depend on them, but the times that are shown do", "this host's clock and the database's are %s apart", skew.Round(time.Second))
	}
	var ahead float64 // in seconds; the log may not be there yet
	if err := conn.QueryRow(ctx, "select extract(epoch from recorded_at - clock_timestamp()) from public.events order by position desc limit 1").Scan(&ahead); err == nil && ahead > skewAllowed.Seconds() {
		d.say(Warn, "nothing needs to be done: the log's time stands still until the clock has caught up; set the clock by NTP",
			"the newest event was recorded %s ahead of the database's clock, which was set back since", time.Duration(ahead*float64(time.Second)).Round(time.Second))
	}
	obstacles, err := migrations.Obstacles(ctx, conn)
	if d.failed(err, daemon.StoreHint(err)) {
		return false
	}
	for _, reason := range obstacles {
		d.say(Fail, "pushes are accepted meanwhile, and wait", "%s", reason)
	}
	unguarded, err := migrations.Unguarded(ctx, conn)
	if d.failed(err, daemon.StoreHint(err)) {
		return false
	}
	if len(unguarded) > 0 {
		d.say(Fail, "find out who did that; `verify` says whether the log was changed; restore the database, or make a new one and import an export",
			"triggers that guard the log are gone or not enabled always: %s", strings.Join(unguarded, ", "))
	}
	roles, err := migrations.Roles(ctx, conn)
	switch {
	case err != nil:
		d.say(Fail, "", "%s", oneLine(err))
		return false
	case !roles:
		d.say(Warn, "see The database in docs/operations.md", "Postgres %s; the connecting role owns the log, so that only triggers guard it", version)
	case len(obstacles) == 0:
		d.say(OK, "", "Postgres %s, the schema is this program's, the application may read and append", version)
	}
	return true
}

// git asks each remote of an enabled deployment for its branch.
func (d *doctor) git(ctx context.Context) {
	if _, err := process.LookPath("git", "/", d.cfg.ExecutableSearchPaths, daemon.Environment(d.cfg, &config.Deployment{})); err != nil {
		d.say(Fail, "install git", "%v", err)
		return
	}
	var enabled []*config.Deployment
	for _, slug := range d.cfg.Slugs() {
		if dep := d.cfg.Deployments[slug]; dep.Enabled {
			enabled = append(enabled, dep)
		}
	}
	tips, errs := make([]string, len(enabled)), make([]error, len(enabled))
	var asking sync.WaitGroup
	slots := make(chan struct{}, remotesAtOnce)
	for i, dep := range enabled {
		asking.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, remoteWithin)
			defer cancel()
			tips[i], errs[i] = daemon.Repository(d.cfg, dep).RemoteTip(ctx, dep.Branch)
		})
	}
	asking.Wait()
	bad := false
	for i, dep := range enabled {
		switch err := errs[i]; {
		case errors.Is(err, git.ErrRefNotFound):
			bad = true
			d.say(Warn, "push the branch, or fix branch in the configuration", "%s: the remote has no branch %q", dep.Slug, dep.Branch)
		case err != nil:
			bad = true
			d.say(Fail, "can this user reach it by hand? `git ls-remote`; private repositories need a deploy key", "%s: %s", dep.Slug, oneLine(err))
		}
	}
	if !bad {
		d.say(OK, "", "%s asked, and the branch is there", counted(len(enabled), "remote"))
	}
}
