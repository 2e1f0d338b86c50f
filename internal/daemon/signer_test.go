package daemon

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
	"github.com/ducompsoc/durhack-deployer/internal/signer"
)

// The first start makes a key, the last thing that a worker does is to sign, and a key
// that is gone is not replaced by another.
func TestFirstStartMakesAKey(t *testing.T) {
	s := newSite(t, pgtest.DSN(t), "")
	d := s.run(true, true)
	s.push(d, "d1")
	s.expectDeployed(d, "d1")
	s.mustStop(d)
	key, err := SigningKey(s.cfg)
	if err != nil || key == nil {
		t.Fatalf("key %v, %v", key, err)
	}
	signed, err := KeptCheckpoint(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := checkpoint.Open(signed, key.Verifier()); err != nil || c.N != 4 {
		t.Errorf("signed %+v, %v, want all of 4 events", c, err)
	}
	if err := os.Rename(SigningKeyPath(s.cfg), s.dir+"/away"); err != nil {
		t.Fatal(err)
	}
	d = s.run(true, true)
	s.becomes(d, 503, "is missing, but a checkpoint was signed with it: put the key back")
	s.mustStop(d)
	if _, err := os.Stat(SigningKeyPath(s.cfg)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another key was made: %v", err)
	}
	if err := os.Rename(s.dir+"/away", SigningKeyPath(s.cfg)); err != nil {
		t.Fatal(err)
	}
	d = s.run(true, true)
	s.becomes(d, 200, "")
	s.mustStop(d)
	if again, err := os.ReadFile(signer.Path(s.cfg.StateDir)); err != nil || string(again) != string(signed) {
		t.Errorf("signed again: %s, %v", again, err)
	}
}
