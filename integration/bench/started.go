package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// pushes is how many are sent in a round.
const pushes = 50

// pause lets what follows a deploy (checkpoints, hints) come to rest.
const pause = 20 * time.Millisecond

const workConfig = listenConfig + `
[deployments.app]
repository = "owner/app"
enabled = true
branch = "main"
remote = %q
path = %q

[[deployments.app.steps]]
name = "nothing"
run = ["true"]
`

// site is a deployment to push to.
type site struct {
	config  string
	dsn     string
	bare    string   // the remote
	commits []string // oldest first; main is moved from one to the next
}

// site makes a repository with n commits, a database and a configuration.
func (b *bench) site(ctx context.Context, n int) (site, error) {
	s := site{}
	dir, err := b.scratch("site")
	if err != nil {
		return s, err
	}
	if s.dsn, err = b.database(ctx); err != nil {
		return s, err
	}
	s.bare = filepath.Join(dir, "app.git")
	if s.commits, err = makeCommits(ctx, s.bare, n); err != nil {
		return s, err
	}
	s.config = filepath.Join(dir, "deployer.toml")
	text := fmt.Sprintf("database_url = %q\n"+workConfig, s.dsn, filepath.Join(dir, "state"), secret, s.bare, filepath.Join(dir, "www"))
	return s, os.WriteFile(s.config, []byte(text), 0o600)
}

// advance moves main to the i-th commit, as a push does before its webhook.
func (s site) advance(i int) error {
	return os.WriteFile(filepath.Join(s.bare, "refs", "heads", "main"), []byte(s.commits[i]+"\n"), 0o600)
}

// makeCommits makes a bare repository, and n commits that each change its page.
func makeCommits(ctx context.Context, bare string, n int) ([]string, error) {
	git := func(in []byte, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Stdin = bytes.NewReader(in)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("git %s: %w: %s", args[0], err, out)
		}
		return string(out), nil
	}
	if _, err := git(nil, "init", "--quiet", "--bare", "--initial-branch=main", bare); err != nil {
		return nil, err
	}
	var stream bytes.Buffer
	for i := range n {
		page := fmt.Sprintf("<h1>Page %d</h1>\n", i)
		fmt.Fprintf(&stream, "commit refs/heads/main\ncommitter Bench <bench@example.com> %d +0000\ndata 6\nChange\nM 644 inline index.html\ndata %d\n%s\n",
			1_700_000_000+i, len(page), page)
	}
	if _, err := git(stream.Bytes(), "--git-dir", bare, "fast-import", "--quiet"); err != nil {
		return nil, err
	}
	list, err := git(nil, "--git-dir", bare, "rev-list", "--reverse", "main")
	return strings.Fields(list), err
}

// milestone is a line of the daemon's log about a delivery.
type milestone struct {
	at   time.Time
	line string
}

// started sends pushes of new commits, one at a time, to `serve` with Postgres,
// and compares the time until `started` is committed (the daemon logs it then)
// with that of the parts alone: two durable files and three single-row commits,
// on the same disk and the same server. It writes them in turns.
func started(ctx context.Context, b *bench) (_ []result, err error) {
	const warm = 3
	s, err := b.site(ctx, warm+b.rounds*pushes)
	if err != nil {
		return nil, err
	}
	parts, err := b.newParts(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, parts.close(ctx)) }()
	p, milestones, err := b.worksite(ctx, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()

	var tail, partsTail, typical, partsTypical []float64
	var took, alone []time.Duration
	for i := range s.commits {
		once, err := s.pushed(ctx, p, milestones, i)
		if err != nil {
			return nil, err
		}
		time.Sleep(pause)
		sum, err := parts.measure(ctx)
		if err != nil {
			return nil, err
		}
		time.Sleep(pause)
		if i < warm { // the clone, and caches
			continue
		}
		took, alone = append(took, once), append(alone, sum)
		if len(took) == pushes {
			b.round(len(tail))
			tail, partsTail = append(tail, p99(took)), append(partsTail, p99(alone)) // sorts
			typical = append(typical, milliseconds(took[pushes/2]))
			partsTypical = append(partsTypical, milliseconds(alone[pushes/2]))
			took, alone = nil, nil
		}
	}
	return []result{
		compare("POST to `started`, p99", "its parts", "ms", tail, partsTail, target{max: 2}),
		compare("the same, median", "its parts", "ms", typical, partsTypical, target{}),
	}, nil
}

// worksite starts `serve` for a site, and hands on what its log says of deliveries.
func (b *bench) worksite(ctx context.Context, s site) (*process, <-chan milestone, error) {
	milestones := make(chan milestone, 64)
	p, err := b.deployer(ctx, "serve", s.config, "working", func(at time.Time, line string) {
		if strings.Contains(line, " delivery=") {
			milestones <- milestone{at, line}
		}
	})
	return p, milestones, err
}

// pushed sends the i-th push, waits until it is live, and returns how long it took
// from the POST to the committed `started`.
func (s site) pushed(ctx context.Context, p *process, milestones <-chan milestone, i int) (time.Duration, error) {
	if err := s.advance(i); err != nil {
		return 0, err
	}
	before := noCommit
	if i > 0 {
		before = s.commits[i-1]
	}
	begin, err := p.push(i, "owner/app", before, s.commits[i], bodySize)
	if err != nil {
		return 0, err
	}
	at, err := reached(ctx, milestones, "started", i)
	if err != nil {
		return 0, err
	}
	_, err = reached(ctx, milestones, "deployed", i)
	return at.Sub(begin), err
}

// delivery names the i-th push; see client.
func delivery(i int) string { return fmt.Sprintf("%08d-0000-0000-0000-000000000001", i) }

// push sends a push that moves main from before to commit, and returns when it
// began to.
func (p *process) push(i int, repository, before, commit string, size int) (time.Time, error) {
	c, err := newClient(p.addr, webhookPath, i, pushTo(repository, before, commit, size))
	if err != nil {
		return time.Time{}, err
	}
	defer c.close()
	begin := time.Now()
	return begin, c.post()
}

// reached waits for the event of the i-th delivery.
func reached(ctx context.Context, milestones <-chan milestone, event string, i int) (time.Time, error) {
	late := time.NewTimer(startLimit)
	defer late.Stop()
	for {
		select {
		case m := <-milestones:
			if !strings.Contains(m.line, delivery(i)) {
				continue
			}
			if strings.Contains(m.line, "msg="+event+" ") {
				return m.at, nil
			}
			if strings.Contains(m.line, "msg=failed ") || strings.Contains(m.line, "msg=voided ") {
				return time.Time{}, fmt.Errorf("wanted %s: %s", event, m.line)
			}
		case <-late.C:
			return time.Time{}, fmt.Errorf("delivery %s is not %s after %s", delivery(i), event, startLimit)
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		}
	}
}

// parts are what the way to `started` cannot do without.
type parts struct {
	raw  *rawQueue
	conn *pgx.Conn
	body []byte
}

func (b *bench) newParts(ctx context.Context) (*parts, error) {
	dir, err := b.scratch("parts")
	if err != nil {
		return nil, err
	}
	dsn, err := b.database(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "create table parts (id bigserial primary key, data text not null)"); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	raw, err := newRawQueue(dir)
	if err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return &parts{raw: raw, conn: conn, body: push(noCommit, commit, bodySize)}, nil
}

func (p *parts) measure(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	for range 2 {
		if err := p.raw.put(p.body); err != nil {
			return 0, err
		}
	}
	for range 3 {
		if _, err := p.conn.Exec(ctx, "insert into parts (data) values ($1)", commit); err != nil {
			return 0, err
		}
	}
	return time.Since(begin), nil
}

func (p *parts) close(ctx context.Context) error {
	p.raw.close()
	return p.conn.Close(ctx)
}
