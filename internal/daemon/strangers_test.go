package daemon

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// Other users of the host can read of state_dir what is public, and no more.
func TestStateDir_ClosedToOthers(t *testing.T) {
	s := newSite(t, pgtest.MigratedDSN(t), "")
	d := s.run(true, true)
	s.push(d, "one")
	s.wait(d, "the key that signs", func() bool {
		_, err := os.Stat(filepath.Join(s.cfg.StateDir, "checkpoint"))
		return err == nil
	})
	s.mustStop(d)
	public := []string{"checkpoint", "instance", "known_hosts"}
	var look func(dir string)
	look = func(dir string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			mode := info.Mode().Perm()
			if mode&0o006 != 0 && !slices.Contains(public, e.Name()) || mode&0o002 != 0 {
				t.Errorf("%s has mode %04o", path, mode)
			}
			if e.IsDir() && mode&0o001 != 0 { // what others cannot enter guards what is in it
				look(path)
			}
		}
	}
	look(s.cfg.StateDir)
	if _, err := os.Stat(filepath.Join(s.cfg.StateDir, "signer.key")); err != nil {
		t.Error(err)
	}
}
