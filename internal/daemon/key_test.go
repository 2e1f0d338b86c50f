package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A key that ssh would refuse, or that others may read, is an error before anything runs.
func TestRefuse_KeyThatSSHCannotUse(t *testing.T) {
	key := filepath.Join(t.TempDir(), "web.key")
	s := newSite(t, "", "")
	s.cfg.Deployments["web"].Key = key
	refusal := func() string { return fmt.Sprint(Refuse(s.cfg, false, true)) }
	if got := refusal(); !strings.Contains(got, "is not there") || !strings.Contains(got, "ssh-keygen") {
		t.Errorf("a missing key: %s", got)
	}
	if err := os.WriteFile(key, []byte("a key"), 0o640); err != nil {
		t.Fatal(err)
	}
	if got := refusal(); !strings.Contains(got, "has mode 0640") || !strings.Contains(got, "chmod 600") {
		t.Errorf("a key of a group: %s", got)
	}
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := refusal(); got != "<nil>" {
		t.Errorf("a good key: %s", got)
	}
}
