package dashboard

import (
	"cmp"
	"context"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// remembered is how long a cache remembers: what was redacted must not be shown for long, and
// what was not there may come.
const remembered = 5 * time.Minute

// cache keeps the newest so many values for a while.
type cache[K comparable, V any] struct {
	mu    sync.Mutex
	most  int
	has   map[K]kept[V]
	order []K
}

type kept[V any] struct {
	value V
	until time.Time
}

func newCache[K comparable, V any](most int) *cache[K, V] {
	return &cache[K, V]{most: most, has: map[K]kept[V]{}}
}

func (c *cache[K, V]) get(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.has[key]
	return k.value, ok && time.Now().Before(k.until)
}

func (c *cache[K, V]) put(key K, value V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.has[key]; !ok {
		if c.order = append(c.order, key); len(c.order) > c.most {
			delete(c.has, c.order[0])
			c.order = c.order[1:]
		}
	}
	c.has[key] = kept[V]{value, time.Now().Add(remembered)}
}

// commit is what is known of a commit, for people.
type commit struct {
	Hash string
	// Subject, Author and Login (of the author) are empty where neither a push that is stored
	// nor the clone tells them.
	Subject, Author, Login string
	// Link is its page at the remote's, "" where there is none.
	Link string
}

// named is a commit's subject and author, as a push or a clone told them.
type named struct {
	subject, author, login string
	// told says that nobody else is to be asked. A push whose body is not stored, or was
	// redacted, tells nothing, and is not asked around for.
	told bool
}

// commits finds what pushes say of their commits, or else the deployments' clones, and
// remembers it.
type commits struct {
	known *cache[string, named]
	// clone asks a deployment's clone, and absent is when it did not tell of a commit.
	clone  func(ctx context.Context, d *config.Deployment, commits []string) (map[string]git.Authored, error)
	absent *cache[absent, time.Time]
	within time.Duration // see clonesWithin
}

type absent struct{ deployment, commit string }

func newCommits(o Options) *commits {
	return &commits{known: newCache[string, named](8192), clone: o.Authored, absent: newCache[absent, time.Time](8192), within: clonesWithin}
}

// wanted is a commit to be named, and the deployment that has it in its clone, nil where it is
// another instance's.
type wanted struct {
	hash string
	of   *config.Deployment
}

// maxBody is how long a body may be that is read for a subject, in bytes, and maxSubject how
// long that may be, in characters.
const (
	maxBody    = 1 << 20
	maxSubject = 160
	maxPerson  = 80
	// maxAsked bounds the bodies that are read for one page.
	maxAsked = 100
	// clonesAsked and clonesWithin bound the clones that are asked for one page, absentFor
	// is how long one is not asked again for what it did not tell: it may be fetched next.
	clonesAsked  = 8
	clonesWithin = 200 * time.Millisecond
	absentFor    = 10 * time.Second
)

// name finds the subjects and authors of the commits that are not known yet.
func (c *commits) name(ctx context.Context, source answer.Source, all []wanted) error {
	if err := c.pushed(ctx, source, all); err != nil {
		return err
	}
	c.cloned(ctx, all)
	return nil
}

// pushed asks the log: for the deliveries that carried them in one round trip, and for their
// bodies in another.
func (c *commits) pushed(ctx context.Context, source answer.Source, all []wanted) error {
	var filters []eventlog.Filter
	var asked []string
	for _, one := range all {
		hash := one.hash
		if _, ok := c.known.get(hash); ok || !names.Commit(hash) || slices.Contains(asked, hash) || len(asked) == maxAsked {
			continue
		}
		asked = append(asked, hash)
		filters = append(filters, eventlog.Filter{Types: []eventlog.Type{eventlog.TypeReceived}, Commit: hash, Whole: true, Limit: 3})
	}
	if len(asked) == 0 {
		return nil
	}
	found, err := source.Log.FindEach(ctx, filters)
	if err != nil {
		return err
	}
	var digests []string
	for i, events := range found {
		c.known.put(asked[i], named{}) // for now, and where nothing tells more
		for _, e := range events {
			data, err := e.Decode()
			if err != nil {
				continue
			}
			r, ok := data.(eventlog.Received)
			if !ok || r.Source == eventlog.SourceCLI || r.Source == eventlog.SourceRecovery && r.HookID == "" {
				continue // whoever deployed by hand, or found it by polling, does not tell who wrote it
			}
			c.known.put(asked[i], named{told: true})
			if r.PayloadSize <= maxBody {
				digests = append(digests, r.PayloadDigest)
			}
		}
	}
	return source.Log.Bodies(ctx, digests, maxBody, c.learn)
}

// learn remembers the commits of a push.
func (c *commits) learn(p eventlog.Payload) {
	for _, one := range delivery.Commits(p.ContentType, p.Body) {
		if !names.Commit(one.ID) {
			continue
		}
		author := cmp.Or(one.Author.Name, one.Author.Username)
		c.known.put(one.ID, named{plain(one.Subject(), maxSubject), plain(author, maxPerson), plain(one.Author.Username, maxPerson), true})
	}
}

// cloned asks the clones of the deployments for what no push told. One that is not there, or
// slow, is no error: the hash alone is shown.
func (c *commits) cloned(ctx context.Context, all []wanted) {
	if c.clone == nil {
		return
	}
	ask := map[*config.Deployment][]string{}
	for _, one := range all {
		if one.of == nil || !names.Commit(one.hash) || slices.Contains(ask[one.of], one.hash) || len(ask[one.of]) == maxAsked {
			continue
		}
		known, _ := c.known.get(one.hash)
		if at, ok := c.absent.get(absent{one.of.Slug, one.hash}); known.told || ok && time.Since(at) < absentFor {
			continue
		}
		ask[one.of] = append(ask[one.of], one.hash)
	}
	ctx, cancel := context.WithTimeout(ctx, c.within)
	defer cancel()
	left := clonesAsked
	for d, hashes := range ask { // in no order: each has its turn, sooner or later
		if left--; left < 0 || ctx.Err() != nil {
			return
		}
		found, _ := c.clone(ctx, d, hashes) // the deploy says what is wrong with a clone
		for _, hash := range hashes {
			if one, ok := found[hash]; ok {
				c.known.put(hash, named{subject: plain(one.Subject, maxSubject), author: plain(one.Author, maxPerson), told: true})
			} else {
				c.absent.put(absent{d.Slug, hash}, time.Now())
			}
		}
	}
}

// of is a commit of a repository, with what is known of it.
func (c *commits) of(site, hash string) commit {
	n, _ := c.known.get(hash)
	one := commit{Hash: hash, Subject: n.subject, Author: n.author, Login: n.login}
	if site != "" && names.Commit(hash) {
		one.Link = site + "/commit/" + hash
	}
	return one
}

var (
	repositoryForm = regexp.MustCompile(`^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$`)
	scpForm        = regexp.MustCompile(`^(?:[A-Za-z0-9_.-]+@)?([A-Za-z0-9.-]+):([A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+?)(?:\.git)?$`)
)

// siteOf is the page of a repository, where its remote is one that has such pages: that of
// HTTP or ssh, with an owner and a name. "" where nobody can tell.
func siteOf(d *config.Deployment) string {
	if m := scpForm.FindStringSubmatch(d.Remote); m != nil {
		return "https://" + m[1] + "/" + m[2]
	}
	u, err := url.Parse(d.Remote)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" && u.Scheme != "ssh" {
		return ""
	}
	name := strings.TrimSuffix(strings.Trim(u.Path, "/"), ".git")
	if !repositoryForm.MatchString(name) {
		return ""
	}
	if u.Scheme == "ssh" {
		return "https://" + u.Hostname() + "/" + name
	}
	return u.Scheme + "://" + u.Host + "/" + name
}

// githubSite is the page of a repository that only the log names.
func githubSite(repository string) string {
	if !repositoryForm.MatchString(repository) {
		return ""
	}
	return "https://github.com/" + repository
}
