package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/config"
)

// The files that tokens are in are the daemon's alone, like the key that signs.
func TestGuarded_NamesEverySecret(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secret, token, url := write("secret", "a secret of the webhook"), write("token", "github_pat_11AAAAAAA0this1is2secret"), write("url", "ntfy://ntfy.sh/a")
	file := write("a.toml", fmt.Sprintf("state_dir = %q\nwebhook_secret_file = %q\n[github]\ntoken_file = %q\n[[notify]]\nname = \"a\"\nurl_file = %q\n[[notify]]\nname = \"b\"\nurl = \"ntfy://ntfy.sh/b\"\n", dir, secret, token, url))
	cfg, err := config.Load([]string{file}, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	guarded := Guarded(cfg)
	for _, path := range []string{secret, token, url, file} {
		if !slices.Contains(guarded, GuardedFile{path, unix.R_OK}) {
			t.Errorf("%s is not among %v", path, guarded)
		}
	}
	if slices.ContainsFunc(guarded, func(f GuardedFile) bool { return f.Path == "" }) {
		t.Errorf("a file without a name is guarded: %v", guarded)
	}
}
