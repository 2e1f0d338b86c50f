package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestKeptConfigurationIsFoundWhereTheNewOneIsBroken(t *testing.T) {
	for name, test := range map[string]struct {
		unit   string // systemd's directory, below the test's
		broken string
	}{
		"in state_dir, by a line of the broken one": {"", "state_dir = \"DIR/state\"\n[["},
		"in state_dir, by an unknown key beside it": {"", "unknown = 1\n  state_dir = 'DIR/state'\n"},
		"in the directory of the unit":              {"unit", "[["},
		"in the directory of the unit, no file":     {"unit", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, sub := range []string{"state", "unit"} {
				if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			env := func(name string) string {
				if name == "STATE_DIRECTORY" && test.unit != "" {
					return filepath.Join(dir, test.unit) + ":/elsewhere"
				}
				return ""
			}
			file, secret := filepath.Join(dir, "deployer.toml"), filepath.Join(dir, "secret")
			write(t, secret, "s3cret\n")
			write(t, file, "instance = \"kept\"\nstate_dir = \""+dir+"/state\"\nwebhook_secret_file = \""+secret+"\"\n")
			args := []string{file}
			c, err := Load(args, env)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := LoadKept("serve", args, args, env); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("before it is kept: %v", err)
			}
			at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			path, content, err := c.Keep("serve", args, env, at)
			if err != nil {
				t.Fatal(err)
			}
			write(t, path, string(content))
			if err := os.Chmod(path, 0o600); err != nil {
				t.Fatal(err)
			}
			write(t, file, strings.ReplaceAll(test.broken, "DIR", dir))
			if err := os.Remove(secret); err != nil {
				t.Fatal(err)
			}
			if test.broken == "" {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}
			good, when, err := LoadKept("serve", args, args, env)
			if err != nil {
				t.Fatal(err)
			}
			if good.Instance != "kept" || len(good.Secrets) != 1 || good.Secrets[0] != "s3cret" || good.StateDir != filepath.Join(dir, "state") || !when.Equal(at) {
				t.Errorf("got %#v of %v, secrets %d, %s", good, when, len(good.Secrets), good.StateDir)
			}
			for _, other := range [][]string{{"work", file}, {"serve", file + "2"}, {"serve"}} {
				if _, _, err := LoadKept(other[0], other[1:], args, env); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%q: %v", other, err)
				}
			}
			// What others could have written is not run.
			if err := os.Chmod(path, 0o620); err != nil {
				t.Fatal(err)
			}
			if _, _, err := LoadKept("serve", args, args, env); err == nil || !strings.Contains(err.Error(), "0600") {
				t.Errorf("a file of others: %v", err)
			}
		})
	}
}
