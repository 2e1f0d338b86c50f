//go:build integration

package nginx_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsnotify/fsnotify"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// valid says what nginx says of what is on disk now.
func (s *site) valid() {
	s.Helper()
	if out, err := exec.Command("nginx", "-t", "-c", s.conf()).CombinedOutput(); err != nil {
		s.Errorf("nginx could not start now: %v\n%s", err, out)
	}
}

// links are the names in conf_dir, with where they lead to.
func (s *site) links() string {
	s.Helper()
	entries, err := os.ReadDir(s.cfg.ConfDir)
	if err != nil {
		s.Fatal(err)
	}
	var list []string
	for _, entry := range entries {
		target, _ := os.Readlink(filepath.Join(s.cfg.ConfDir, entry.Name()))
		list = append(list, entry.Name()+" -> "+strings.TrimPrefix(target, s.live+"/"))
	}
	return strings.Join(list, "\n")
}

// A deployer is killed at the first change that is seen, at the second, and so on,
// until one comes to its end. Whatever it leaves, nginx could start with it, and the
// next deploy goes live.
func TestSwitch_KilledAnywhere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	old := s.push(map[string]string{"production/[a.test].nginxconf": s.server("a.test", "old"), "production/[b.test].nginxconf": s.server("b.test", "old")})
	changed := s.push(map[string]string{
		"production/[a.test].nginxconf": s.server("a.test", "new"), "production/[b.test].nginxconf": "", "production/[c.test].nginxconf": s.server("c.test", "new"),
	})
	kills := 0
	for n := 1; ; n++ {
		s.mustDeploy(old)
		if !s.killedAt(n, changed) {
			break
		}
		kills++
		s.valid()
		s.mustDeploy(changed)
		s.expect("a.test", "new")
		s.expect("b.test", "nobody")
		s.expect("c.test", "new")
		if _, err := os.Stat(filepath.Join(s.live, "local-live/.switch")); err == nil {
			t.Error("the journal is still there")
		}
	}
	if kills < 5 {
		t.Errorf("only %d deployers were killed", kills)
	}
}

// A commit that is refused does not keep what a deployer left half done.
func TestSwitch_KilledIsUndoneByADeployThatIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.mustDeploy(s.push(map[string]string{"production/[a.test].nginxconf": s.server("a.test", "old")}))
	before := s.links()
	changed := s.push(map[string]string{"production/[a.test].nginxconf": s.server("a.test", "new"), "production/[b.test].nginxconf": s.server("b.test", "new")})
	journal := filepath.Join(s.live, "local-live/.switch")
	for n := 1; s.links() == before; n++ {
		if !s.killedAt(n, changed) {
			t.Fatal("no deployer was killed with links of its own")
		}
	}
	if _, err := os.Stat(journal); err != nil {
		t.Fatal(err)
	}
	out, r := s.deploy(s.push(map[string]string{"production/below/x.conf": "charset utf-8;\n"}))
	if r.FailedStep != "select" || s.links() != before {
		t.Errorf("%v; the links are\n%s\n%s", r.Err, s.links(), out)
	}
	if _, err := os.Stat(journal); err == nil {
		t.Error("the journal is still there")
	}
	s.expect("a.test", "old")
}

// killedAt lets a process deploy, and kills it at the nth change; false where it came to
// its end first.
func (s *site) killedAt(n int, commit string) bool {
	s.Helper()
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		s.Fatal(err)
	}
	defer watch.Close()
	for _, dir := range []string{s.cfg.ConfDir, filepath.Join(s.live, "local-live")} {
		if err := watch.Add(dir); err != nil {
			s.Fatal(err)
		}
	}
	spec, err := json.Marshal(s.deployer(commit))
	if err != nil {
		s.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), deployerEnv+"="+string(spec))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case <-watch.Events:
			if n--; n == 0 {
				_ = cmd.Process.Kill()
			}
		case err := <-ended:
			if n > 0 && err != nil {
				s.Fatalf("%v\n%s", err, said.String())
			}
			return err != nil
		}
	}
}

// canceler cancels when a step has ended.
type canceler struct {
	after  string
	cancel context.CancelFunc
}

func (c canceler) StepStarted(string) {}
func (c canceler) StepEnded(r handlers.StepResult) {
	if r.Name == c.after {
		c.cancel()
	}
}

func TestSwitch_CanceledIsUndone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.mustDeploy(s.push(map[string]string{"production/[a.test].nginxconf": s.server("a.test", "old")}))
	before := s.links()
	for _, after := range []string{"stage", "switch", "test"} {
		commit := s.push(map[string]string{"production/[a.test].nginxconf": s.server("a.test", after), "production/[b.test].nginxconf": s.server("b.test", after)})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var out bytes.Buffer
		r := s.deployer(commit).deploy(ctx, &out, canceler{after, cancel})
		if !r.Canceled || after != "stage" && !strings.Contains(r.Err.Error(), "is back in place and serves") {
			t.Errorf("canceled after %s: %v\n%s", after, r.Err, out.String())
		}
		if got := s.links(); got != before {
			t.Errorf("canceled after %s there is\n%s\nbefore there was\n%s", after, got, before)
		}
		s.expect("a.test", "old")
		s.expect("b.test", "nobody")
	}
}

func TestSelect_FilterHandEditsAndRenames(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	commit := s.push(map[string]string{"production/[a.test].nginxconf": s.server("a.test", "a"), "production/[b.test].nginxconf": s.server("b.test", "b")})
	s.mustDeploy(commit)

	// The filter alone changes: the site goes, and comes back.
	s.cfg.Rules = append(s.cfg.Rules, nginxRule(false, "b.test"))
	s.mustDeploy(commit)
	s.expect("b.test", "nobody")
	s.cfg.Rules = s.cfg.Rules[:1]
	s.mustDeploy(commit)
	s.expect("b.test", "b")

	// Somebody edits a file, and reloads.
	live := filepath.Join(s.live, "local-live/current/sites/[a.test].nginxconf")
	if err := os.WriteFile(live, []byte(s.server("a.test", "by hand")), 0o644); err != nil {
		t.Fatal(err)
	}
	s.mustDeploy(commit)
	s.expect("a.test", "a")

	// Somebody removes a link; somebody renames one, which is left so.
	if err := os.Remove(filepath.Join(s.cfg.ConfDir, "[a.test].nginxconf")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(s.cfg.ConfDir, "[b.test].nginxconf"), filepath.Join(s.cfg.ConfDir, "[b.test].nginxconf.off")); err != nil {
		t.Fatal(err)
	}
	if out := s.mustDeploy(commit); !strings.Contains(out, "that somebody has renamed: it is left so") {
		t.Errorf("the run log does not tell of the link:\n%s", out)
	}
	s.expect("a.test", "a")
	s.expect("b.test", "nobody")
}

func TestSelect_TakesOverFromThePythonDeployer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	snippet := filepath.Join(s.cfg.SnippetsDir, "s.nginxconf")
	with := func(text string) map[string]string {
		return map[string]string{
			"production/[a.test].nginxconf": strings.Replace(s.server("a.test", text), "location", "include "+snippet+"; location", 1), "snippets/s.nginxconf": "charset utf-8;\n",
		}
	}
	s.push(with("python"))
	testkit.Git(t, s.dir, "clone", "--quiet", "--branch", "main", s.remote, s.live)
	if err := os.Mkdir(filepath.Join(s.live, "local-live"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.file("live/local-live/[a.test].nginxconf", with("python")["production/[a.test].nginxconf"])
	for link, target := range map[string]string{
		filepath.Join(s.cfg.ConfDir, "[a.test].nginxconf"): filepath.Join(s.live, "local-live/[a.test].nginxconf"), snippet: filepath.Join(s.live, "snippets/s.nginxconf"),
	} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	before := s.links()
	broken := with("broken")
	broken["production/[b.test].nginxconf"] = "nonsense;"
	if out, r := s.deploy(s.push(broken)); r.FailedStep != "test" || s.links() != before {
		t.Errorf("%v; the links are\n%s\n%s", r.Err, s.links(), out)
	}
	s.valid()
	fixed := with("ours")
	fixed["production/[b.test].nginxconf"] = s.server("b.test", "b")
	s.mustDeploy(s.push(fixed))
	s.expect("a.test", "ours")
	if want := "[a.test].nginxconf -> local-live/current/sites/[a.test].nginxconf\n[b.test].nginxconf -> local-live/current/sites/[b.test].nginxconf"; s.links() != want {
		t.Errorf("the links are\n%s", s.links())
	}
	if target, err := os.Readlink(snippet); err != nil || target != filepath.Join(s.live, "local-live/current/snippets/s.nginxconf") {
		t.Errorf("the snippet's link leads to %s, %v", target, err)
	}
}

func TestSelect_RefusesWhatIsNoPlainFile(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.mustDeploy(s.push(map[string]string{"production/[a.test].nginxconf": s.server("a.test", "a")}))
	// tree commits one entry below a directory, as no git by hand would.
	tree := func(dir, mode, kind, name, hash string) string {
		sub := filepath.Join(s.dir, "entry")
		if err := os.WriteFile(sub, []byte(mode+" "+kind+" "+hash+"\t"+name+"\x00"), 0o644); err != nil {
			t.Fatal(err)
		}
		mktree := func(file string) string {
			cmd := exec.Command("git", "mktree", "-z", "--missing")
			in, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			cmd.Dir, cmd.Stdin = s.repo, in
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(string(out))
		}
		inner := mktree(sub)
		if err := os.WriteFile(sub, []byte("040000 tree "+inner+"\t"+dir+"\x00"), 0o644); err != nil {
			t.Fatal(err)
		}
		commit := testkit.Git(t, s.repo, "commit-tree", "-m", "odd", mktree(sub))
		testkit.Git(t, s.repo, "push", "--quiet", "--force", s.remote, commit+":refs/heads/main")
		return commit
	}
	s.file("repo/blob", s.server("evil.test", "evil"))
	blob := testkit.Git(t, s.repo, "hash-object", "-w", "blob")
	s.file("repo/blob", "/etc/passwd")
	link := testkit.Git(t, s.repo, "hash-object", "-w", "blob")
	for _, c := range []struct{ commit, want string }{
		{tree("production", "120000", "blob", "[l.test].nginxconf", link), "is not a plain file"},
		{tree("production", "100644", "blob", "[x\n.test].nginxconf", blob), "is no name of a file"},
		{tree("production", "100644", "blob", "\xff.nginxconf", blob), "is no name of a file"},
		{tree("local-live", "100644", "blob", ".switch", blob), "local-live is where the deployer keeps what is live"},
		{tree("production", "100644", "blob", "..", blob), "leads out of the working tree"}, // before git gets to check it out
	} {
		testkit.Git(t, s.repo, "push", "--quiet", "--force", s.remote, c.commit+":refs/heads/main")
		if out, r := s.deploy(c.commit); r.Err == nil || !strings.Contains(r.Err.Error(), c.want) || strings.Contains(r.Err.Error(), "journal") {
			t.Errorf("got %v, want %s\n%s", r.Err, c.want, out)
		}
		s.expect("a.test", "a")
	}
	s.mustDeploy(s.push(map[string]string{"production/[a.test].nginxconf": s.server("a.test", "a2")}))
	s.expect("a.test", "a2")
}
