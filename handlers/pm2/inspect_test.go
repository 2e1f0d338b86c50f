package pm2

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func TestUntried_NamesOtherVersions(t *testing.T) {
	t.Parallel()
	for program, versions := range map[string]map[string]bool{
		"node": {"20.20.2": true, "20.19.0": true, "22.12.0": true, "24.0.1": true, "20.9.0": false, "18.20.0": false, "22.2.0": false, "21.1.0": false, "2.0.0": false},
		"pnpm": {"9.15.9": true, "10.34.9": true, "12.21.0": true, "8.1.0": false, "11.0.0": false},
		"pm2":  {"5.4.3": true, "6.0.14": true, "7.0.4": true, "4.5.6": false, "70.0.0": false, "": true},
	} {
		for version, ok := range versions {
			if got := untried(program, version); (got == "") != ok {
				t.Errorf("%s %s: %q", program, version, got)
			}
		}
	}
}

func TestDaemonTitle_TellsVersionAndHome(t *testing.T) {
	t.Parallel()
	for title, want := range map[string][]string{
		"PM2 v7.0.4: God Daemon (/home/a b/.pm2)":  {"7.0.4", "/home/a b/.pm2"},
		"PM2 v5.4.3: God Daemon (/root/.pm2)\x00x": {"5.4.3", "/root/.pm2"},
		"PM2 v6.0.14: God Daemon (/var/lib/cut":    {"6.0.14", "/var/lib/cut"}, // a title has the room of the arguments
		"vim PM2 v7.0.4: God Daemon (/x)":          nil,
		"node /srv/PM2/app.js":                     nil,
	} {
		m := daemonTitle.FindStringSubmatch(title)
		if len(m) > 0 {
			m = m[1:]
		}
		if !slices.Equal(m, want) {
			t.Errorf("%q: %q", title, m)
		}
	}
}

func TestInspect_ReadsWhatIsWantedAndNoMore(t *testing.T) {
	t.Parallel()
	r := sample(t)
	write := func(name, text string) string {
		file := filepath.Join(r.Path, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		testkit.Program(t, file, text)
		return file
	}
	h := New(r.Config)
	for text, want := range map[string]string{`{"packageManager":"pnpm@10.18.3+sha512.abc"}`: "10.18.3", `{"packageManager":"npm@9"}`: "", `{}`: "", `nonsense`: ""} {
		write("package.json", text)
		if got := h.wantedPNPM(); got != want {
			t.Errorf("%s: %q", text, got)
		}
	}
	here := write("node", "#!/bin/sh\n")
	h.cfg.Definition = write("web.json", fmt.Sprintf(`{"apps":[{"name":"a","interpreter":"/nonexistent/v24/bin/node"},{"name":"b","interpreter":%q},{"name":"c","interpreter":"node"},{"name":"d"}]}`, here))
	if got := fmt.Sprint(h.wantedInterpreters()); got != "[[a /nonexistent/v24/bin/node]]" {
		t.Errorf("gone are %s", got)
	}
	program := write("node_modules/pm2/bin/pm2", "#!/bin/sh\nexit 1\n")
	write("node_modules/pm2/package.json", `{"name":"pm2","version":"7.0.4"}`)
	link := filepath.Join(r.Path, "link")
	if err := os.Symlink(program, link); err != nil {
		t.Fatal(err)
	}
	if got := packageVersion(link, "pm2") + packageVersion(link, "pnpm") + packageVersion(here, "pm2"); got != "7.0.4" {
		t.Errorf("the version is %q", got)
	}
}
