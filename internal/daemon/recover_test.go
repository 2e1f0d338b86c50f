package daemon

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	recovery "github.com/ducompsoc/durhack-deployer/internal/recover"
)

func TestAskedAgain_IsKnownForAsLongAsGitHubKeepsIt(t *testing.T) {
	cfg := &config.Config{StateDir: filepath.Join(t.TempDir(), "state")}
	if askedDir(cfg).has("first") {
		t.Error("known before it was asked for")
	}
	for _, guid := range []string{"first", "second"} {
		if err := askedDir(cfg).note(guid); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-recovery.Kept - time.Minute)
	if err := os.Chtimes(filepath.Join(cfg.StateDir, "asked", "first"), old, old); err != nil {
		t.Fatal(err)
	}
	if err := askedDir(cfg).note("third"); err != nil {
		t.Fatal(err)
	}
	if dir := askedDir(cfg); dir.has("first") || !dir.has("second") || !dir.has("third") {
		t.Error("it knows the wrong ones")
	}
	for _, guid := range []string{"", "..", "../../x", "a/b"} {
		if askedDir(cfg).note(guid) == nil {
			t.Errorf("%q is noted", guid)
		}
	}
}

func TestRemotes_AreAskedOnceForAllOfThem(t *testing.T) {
	cfg := &config.Config{Deployments: map[string]*config.Deployment{
		"a": {Slug: "a", Remote: "https://u:hunter2@example.com/x", Branch: "main"},
		"b": {Slug: "b", Remote: "https://u:hunter2@example.com/x", Branch: "live"},
		"c": {Slug: "c", Remote: "https://u:hunter2@example.com/x", Branch: "main", Key: "/etc/key"},
		"d": {Slug: "d", Remote: "https://example.com/y", Branch: "main"},
	}}
	remotes, follow := remotesOf(cfg)
	if len(remotes) != 3 || len(remotes[0].Branches) != 2 || len(follow) != 4 {
		t.Fatalf("%d remotes for %d deployments: %+v", len(remotes), len(follow), remotes)
	}
	if remotes[0].Name != "https://u:[secret]@example.com/x" {
		t.Errorf("it is shown as %s", remotes[0].Name)
	}
}
