package localpg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
	"golang.org/x/sys/unix"
)

// FetchConfig says where Postgres programs are fetched from and kept.
type FetchConfig struct {
	// URL is a Maven repository that holds io.zonky.test.postgres; empty means
	// DURHACK_POSTGRES_REPOSITORY from the environment, or else Maven Central.
	URL string
	// CacheDir keeps what was fetched. Empty means the caller's cache directory,
	// /var/cache/durhack-deployer/postgres for root, or else a directory beside the cluster's.
	CacheDir string
}

const (
	repositoryEnv     = "DURHACK_POSTGRES_REPOSITORY"
	defaultRepository = "https://repo1.maven.org/maven2"
	// fetchTimeout bounds the download of some ten megabytes; maxArchive is many
	// times what one of them has, bytes.
	fetchTimeout = 10 * time.Minute
	maxArchive   = 512 << 20
)

// fetchVersions are those that the library knows, by major version.
var fetchVersions = map[int]embeddedpostgres.PostgresVersion{
	15: embeddedpostgres.V15,
	16: embeddedpostgres.V16,
	17: embeddedpostgres.V17,
	18: embeddedpostgres.V18,
}

// fetchMajor is fetched where no cluster asks for another.
const fetchMajor = 17

// fetchPrograms returns fetched programs of the major version (0: any),
// fetching them if no earlier run did.
func (c *Cluster) fetchPrograms(ctx context.Context, major int) (programs, error) {
	if major == 0 {
		major = fetchMajor
	}
	version, ok := fetchVersions[major]
	if !ok {
		return programs{}, fmt.Errorf("Postgres %d is not among those that can be fetched", major)
	}
	cache, err := c.cacheDir()
	if err != nil {
		return programs{}, err
	}
	final := filepath.Join(cache, string(version))
	if p, err := inspect(ctx, filepath.Join(final, "bin")); err == nil {
		return p, nil
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return programs{}, err
	}
	defer lock.Close()
	if err := flock(ctx, lock, unix.LOCK_EX); err != nil {
		return programs{}, err
	}
	if p, err := inspect(ctx, filepath.Join(final, "bin")); err == nil {
		return p, nil // another process fetched them meanwhile
	}
	if err := c.fetch(ctx, version, cache, final); err != nil {
		return programs{}, err
	}
	return inspect(ctx, filepath.Join(final, "bin"))
}

func (c *Cluster) cacheDir() (string, error) {
	dirs := []string{c.cfg.Fetch.CacheDir}
	if dirs[0] == "" {
		dirs = dirs[:0]
		if c.owner.other {
			// Not in root's home, where the cluster's owner could not run them.
			dirs = append(dirs, "/var/cache/durhack-deployer/postgres")
		} else if d, err := os.UserCacheDir(); err == nil {
			dirs = append(dirs, filepath.Join(d, "durhack-deployer", "postgres"))
		}
		dirs = append(dirs, filepath.Join(filepath.Dir(c.dir), "postgres-programs"))
	}
	var errs []error
	for _, dir := range dirs {
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			return dir, nil
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("make a directory for the fetched programs: %w", errors.Join(errs...))
}

// fetch has embedded-postgres fetch, check and unpack one version into a
// temporary directory, which becomes final when it is whole.
func (c *Cluster) fetch(ctx context.Context, version embeddedpostgres.PostgresVersion, cache, final string) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	repository, err := url.Parse(cmp.Or(c.cfg.Fetch.URL, os.Getenv(repositoryEnv), defaultRepository))
	if err != nil {
		return fmt.Errorf("read the address of the repository of Postgres programs: %w", err)
	}
	// Whoever holds the lock may remove what a killed one left.
	halves, err := filepath.Glob(filepath.Join(escapeGlob(cache), "fetch-*"))
	if err != nil {
		return err
	}
	for _, half := range halves {
		if err := os.RemoveAll(half); err != nil {
			return err
		}
	}
	tmp, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)

	relay, err := newRelay(ctx, repository)
	if err != nil {
		return err
	}
	c.log.Info("fetching Postgres", "version", string(version), "from", repository.Redacted())
	unpacked := filepath.Join(tmp, "programs")
	// The library fetches only as the first part of starting a server, which
	// it would do as this user (Postgres refuses root) and on a TCP port. A data
	// path that ends in a dot cannot be removed (os.RemoveAll says so), and removing it is the
	// first thing after unpacking: so it stops there, having run nothing.
	startErr := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(version).
		BinaryRepositoryURL(relay.url).
		CachePath(filepath.Join(tmp, "archive")).
		BinariesPath(unpacked).
		RuntimePath(filepath.Join(tmp, "runtime")).
		DataPath(filepath.Join(tmp, "runtime") + "/.").
		Port(0).
		Logger(io.Discard)).Start()
	if err := relay.close(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, err := inspect(ctx, filepath.Join(unpacked, "bin")); err != nil {
		return fmt.Errorf("unpack Postgres %s from %s: %w", version, repository.Redacted(), errors.Join(startErr, err))
	}
	if err := openToAll(unpacked); err != nil {
		return err
	}
	if err := os.RemoveAll(final); err != nil {
		return err
	}
	if err := os.Rename(unpacked, final); err != nil {
		return err
	}
	return os.Chmod(cache, 0o755)
}

// openToAll makes a tree readable for everybody, whatever the umask was: the
// one who runs the programs is not always the one who fetched them.
func openToAll(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		// Everybody gets the reading and running that the owner has.
		mode := info.Mode().Perm()
		return os.Chmod(path, mode|(mode&0o500)>>3|(mode&0o500)>>6)
	})
}

// relay stands between the library and the repository. The library's client
// knows no context, no limit and no reason for a failure; the relay adds these.
type relay struct {
	url    string
	server *http.Server
	done   chan struct{} // closed when the server has ended
	client *http.Client

	mu  sync.Mutex
	err error // the first failure
}

func newRelay(ctx context.Context, upstream *url.URL) (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on the loopback interface: %w", err)
	}
	r := &relay{
		url:    "http://" + l.Addr().String(),
		done:   make(chan struct{}),
		client: &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment}},
	}
	r.server = &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if err := r.pass(ctx, w, upstream.JoinPath(req.URL.Path)); err != nil {
				r.fail(err)
				w.WriteHeader(http.StatusBadGateway)
			}
		}),
	}
	go func() {
		defer close(r.done)
		if err := r.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			r.fail(err)
		}
	}()
	return r, nil
}

// pass answers with the whole of what is at u, or with nothing.
func (r *relay) pass(ctx context.Context, w http.ResponseWriter, u *url.URL) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		// Also for the checksum, without which the library would go on.
		return fmt.Errorf("fetch %s: %s", u.Redacted(), resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxArchive+1))
	if err != nil {
		return fmt.Errorf("fetch %s: %w", u.Redacted(), err)
	}
	if len(body) > maxArchive {
		return fmt.Errorf("fetch %s: it has more than %d bytes", u.Redacted(), maxArchive)
	}
	_, err = w.Write(body)
	return err
}

func (r *relay) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
}

// close ends the relay, waits for it, and returns the first failure.
func (r *relay) close() error {
	closeErr := r.server.Close()
	<-r.done
	r.client.CloseIdleConnections()
	// The library used the default client to reach the relay.
	http.DefaultClient.CloseIdleConnections()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.err
	}
	return closeErr
}
