package testkit

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"
)

type run func() int

func (r run) Run() int { return r() }

func TestMain_GivesTestsADirectoryAndRemovesIt(t *testing.T) {
	parent := t.TempDir()
	t.Setenv("TMPDIR", parent)
	var dir string
	ended := false
	code := Main(run(func() int {
		dir = os.TempDir()
		if filepath.Dir(dir) != parent {
			t.Errorf("temporary files are in %s, not below the TMPDIR of the environment", dir)
		}
		if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
			t.Error(err)
		}
		return 3
	}), func() error {
		ended = true
		_, err := os.Stat(dir)
		return err
	})
	if _, err := os.Stat(dir); code != 3 || !ended || !os.IsNotExist(err) {
		t.Errorf("code %d, ended %v, the directory afterwards: %v", code, ended, err)
	}
}

func TestMain_ShortensProperties(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	if err := flag.Set("rapid.checks", "100"); err != nil {
		t.Fatal(err)
	}
	checks := 0
	Main(run(func() int {
		rapid.Check(t, func(*rapid.T) { checks++ })
		return 0
	}))
	if checks != 30 {
		t.Errorf("a property was checked %d times", checks)
	}
}

func TestMain_RemovesWhatKilledTestsLeft(t *testing.T) {
	parent := t.TempDir()
	t.Setenv("TMPDIR", parent)
	old := time.Now().Add(-time.Hour)
	left := filepath.Join(parent, scratchPrefix+"1")
	if err := os.MkdirAll(filepath.Join(left, "pgtest"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	Main(run(func() int {
		if _, err := os.Stat(left); !os.IsNotExist(err) {
			t.Errorf("what a killed test left is still there: %v", err)
		}
		mine := os.TempDir()
		if err := os.Chtimes(mine, old, old); err != nil {
			t.Error(err)
		}
		removeLeftovers(parent)
		if _, err := os.Stat(mine); err != nil {
			t.Errorf("a directory in use was removed: %v", err)
		}
		return 0
	}))
}
