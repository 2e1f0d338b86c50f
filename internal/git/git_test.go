package git

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

func TestCheckout_IsExactlyTheCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.commit("first \x1b[31m\n\n<script>", map[string]string{"a": "1", ".gitignore": "node_modules\n.env\n", "old": "x"})
	second := w.commit("second", map[string]string{"a": "2", "old": ""})
	third := w.commit("third", map[string]string{"a": "3"})
	w.push("main")

	w.must(w.deploy("main", second)) // not the tip, on the first deploy
	w.assertLive(second)
	w.must(w.deploy("main", third))
	w.assertLive(third)

	// Local edits go, also staged ones; ignored and untracked files stay.
	w.write(filepath.Join(w.repo.Dir(), "a"), "edited by hand")
	w.write(filepath.Join(w.repo.Dir(), "staged"), "by hand")
	w.git(w.repo.Dir(), "add", "staged")
	for _, name := range []string{"node_modules/x", ".env", "untracked"} {
		w.write(filepath.Join(w.repo.Dir(), name), "mine")
	}
	w.must(w.deploy("main", first))
	w.assertLive(first)
	if w.live("a") != "1" || w.live("old") != "x" {
		t.Errorf("a is %q, old is %q", w.live("a"), w.live("old"))
	}
	for _, name := range []string{"node_modules/x", ".env", "untracked"} {
		if w.live(name) != "mine" {
			t.Errorf("%s is %q", name, w.live(name))
		}
	}
	if b := w.git(w.repo.Dir(), "rev-parse", "refs/remotes/origin/main"); b != third {
		t.Errorf("origin/main is %s, want %s", b, third)
	}
}

// A branch that is gone at the remote has no ref here either, and its name does not
// keep out those that begin with it, or that it begins with.
func TestFetchCommit_PrunesBranchesThatVanished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	commit := w.commit("first", map[string]string{"a": "1"})
	for _, branch := range []string{"release", "release/1", "release"} {
		w.push(branch)
		w.must(w.deploy(branch, commit))
		w.git(w.bare, "branch", "--quiet", "-D", branch)
		commit = w.commit("next", map[string]string{"a": branch, "b": commit})
	}
	w.push("release/2")
	w.must(w.repo.FetchHistory(t.Context(), "release/2", commit, &w.out))
	w.git(w.bare, "branch", "--quiet", "-D", "release/2")
	w.must(w.deploy("release/2", commit))
	if refs := w.git(w.repo.Dir(), "for-each-ref", "refs/remotes"); refs != "" {
		t.Errorf("of branches that are gone there is left\n%s", refs)
	}
}

func TestCommitThatIsOnNoBranch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit("base", map[string]string{"a": "0"})
	pushedAway := w.commit("pushed away", map[string]string{"a": "1"})
	w.push("main")
	w.git(w.pusher, "reset", "--quiet", "--hard", "HEAD^")
	w.commit("instead", map[string]string{"a": "2"})
	w.push("main")
	w.must(w.deploy("main", pushedAway))
	w.assertLive(pushedAway)

	// The branch is gone, the commit is not.
	onDeleted := w.commit("deleted branch", map[string]string{"a": "3"})
	w.push("feature")
	w.git(w.bare, "branch", "--quiet", "-D", "feature")
	w.must(w.deploy("feature", onDeleted))
	w.assertLive(onDeleted)

	err := w.deploy("main", strings.Repeat("0123456789", 4))
	if err == nil || !strings.Contains(err.Error(), "not our ref") {
		t.Errorf("a commit that is nowhere: %v", err)
	}
	tree := w.git(w.pusher, "rev-parse", "HEAD^{tree}")
	if err := w.deploy("main", tree); err == nil || !strings.Contains(err.Error(), "not a commit") {
		t.Errorf("a tree: %v", err)
	}
	w.assertLive(onDeleted)
}

func TestNamesThatLookLikeOptions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	proof := filepath.Join(t.TempDir(), "proof")
	branches := []string{"--upload-pack=touch${IFS}" + proof, "-d", ";$(id)", "--", "a'b\"c", "\u00fc", "refs/heads/main", "HEAD", strings.Repeat("ab01", 10)}
	for i, branch := range branches {
		commit := w.commit(fmt.Sprint("commit ", i), map[string]string{"a": fmt.Sprint(i + 1)})
		w.push(branch)
		w.must(w.deploy(branch, commit))
		w.assertLive(commit)
		if tip, err := w.repo.RemoteTip(t.Context(), branch); err != nil || tip != commit {
			t.Errorf("tip of %q is %q, %v", branch, tip, err)
		}
		if ref, err := w.repo.Resolve(t.Context(), branch); !names.Commit(branch) && !strings.HasPrefix(branch, "refs/") && (err != nil || ref.Commit != commit || ref.Name != "refs/heads/"+branch) {
			t.Errorf("resolve %q is %+v, %v", branch, ref, err)
		}
	}
	if _, err := os.Stat(proof); err == nil {
		t.Error("a branch name was run")
	}
	for _, bad := range []string{"", "a b", "a..b", "*", "a?", "x.lock", "x/.y", "/a", "a/", "a//b", "a\nb", "a:b", "a^{commit}", "a~1", "@{u}", "[a]", "a\\b", "@"} {
		if err := w.repo.FetchCommit(t.Context(), bad, strings.Repeat("a", 40), nil); err == nil {
			t.Errorf("branch %q was taken", bad)
		}
		if _, err := w.repo.RemoteTip(t.Context(), bad); err == nil {
			t.Errorf("branch %q was taken", bad)
		}
	}
	for _, bad := range []string{"", "HEAD", "--help", "abc", strings.Repeat("A", 40), strings.Repeat("a", 41), strings.Repeat("a", 40) + "\n"} {
		if w.repo.FetchCommit(t.Context(), "main", bad, nil) == nil || w.repo.Checkout(t.Context(), bad, nil) == nil {
			t.Errorf("hash %q was taken", bad)
		}
	}
}

func TestQuestions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	// Before there is anything here.
	if head, err := w.repo.Head(ctx); head != "" || err != nil {
		t.Errorf("head %q, %v", head, err)
	}
	if _, err := w.repo.RemoteTip(ctx, "main"); !errors.Is(err, ErrRefNotFound) {
		t.Errorf("tip of an empty remote: %v", err)
	}
	first := w.commit("first", nil)
	second := w.commit("second", nil)
	w.push("main")
	w.git(w.pusher, "tag", "-a", "v1", "-m", "one", first)
	w.git(w.pusher, "tag", "light", first)
	w.git(w.pusher, "push", "--quiet", w.bare, "v1", "light")
	// A ref whose end looks like the one that is asked for.
	w.git(w.pusher, "push", "--quiet", w.bare, first+":refs/x/refs/heads/main")
	if tip, err := w.repo.RemoteTip(ctx, "main"); tip != second || err != nil {
		t.Errorf("tip %q, %v", tip, err)
	}
	if has, err := w.repo.Has(ctx, first); has || err != nil {
		t.Errorf("has %v, %v", has, err)
	}
	if err := w.repo.EnsureClone(ctx, anyCommit, nil); err != nil {
		t.Fatal(err)
	}
	if head, err := w.repo.Head(ctx); head != "" || err != nil {
		t.Errorf("head of a fresh clone %q, %v", head, err)
	}
	w.must(w.deploy("main", second))
	unknown := strings.Repeat("12", 20)
	for _, c := range []struct {
		a, b string
		want bool
	}{{first, second, true}, {second, first, false}, {first, first, true}, {unknown, first, false}} {
		if got, err := w.repo.IsAncestor(ctx, c.a, c.b); got != c.want || err != nil {
			t.Errorf("IsAncestor(%s, %s) = %v, %v", c.a, c.b, got, err)
		}
	}
	if _, err := w.repo.IsAncestor(ctx, first, unknown); err == nil {
		t.Error("an unknown descendant is no error")
	}
	for name, want := range map[string]Ref{
		"main":            {"refs/heads/main", second},
		"refs/heads/main": {"refs/heads/main", second},
		"v1":              {"refs/tags/v1", first},
		"refs/tags/v1":    {"refs/tags/v1", first},
		"light":           {"refs/tags/light", first},
		unknown:           {"", unknown},
	} {
		if got, err := w.repo.Resolve(ctx, name); got != want || err != nil {
			t.Errorf("Resolve(%q) = %+v, %v; want %+v", name, got, err, want)
		}
	}
	for _, name := range []string{"nonesuch", "refs/heads/nonesuch", "heads/main", first[:9]} {
		if got, err := w.repo.Resolve(ctx, name); !errors.Is(err, ErrRefNotFound) {
			t.Errorf("Resolve(%q) = %+v, %v", name, got, err)
		}
	}
	for beginning, want := range map[string]string{first[:6]: first, second: second, "abcdef1": "", "main": "", first[:3]: ""} {
		got, err := w.repo.Beginning(ctx, beginning)
		if err != nil || len(got) > 1 || (want == "") != (len(got) == 0) || want != "" && (got[0].Hash != want || got[0].Subject == "" || got[0].Date == "") {
			t.Errorf("Beginning(%q) = %+v, %v; want %q", beginning, got, err, want)
		}
	}
}

func TestDirectoryOfSomebodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(filepath.Join(w.repo.Dir(), "precious"), "data")
	err := w.repo.EnsureClone(t.Context(), anyCommit, nil)
	if !errors.As(err, new(*NotRepositoryError)) || w.live("precious") != "data" {
		t.Errorf("not empty: %v", err)
	}
	w = newWorld(t)
	w.write(filepath.Join(w.repo.Dir(), ".git"), "gitdir: /elsewhere")
	if err := w.repo.EnsureClone(t.Context(), anyCommit, nil); !errors.As(err, new(*NotRepositoryError)) {
		t.Errorf("a .git file: %v", err)
	}
	w = newWorld(t)
	w.repo = Open(filepath.Join(w.pusher, "nowhere"), w.bare, Options{})
	if err := os.Symlink("gone", w.repo.Dir()); err != nil {
		t.Fatal(err)
	}
	if err := w.repo.EnsureClone(t.Context(), anyCommit, nil); !errors.As(err, new(*NotRepositoryError)) || !strings.Contains(err.Error(), "link") {
		t.Errorf("a link to nothing: %v", err)
	}
	w.commit("a file", map[string]string{"file": "data"})
	w.repo = Open(filepath.Join(w.pusher, "file"), w.bare, Options{})
	if err := w.repo.EnsureClone(t.Context(), anyCommit, nil); !errors.As(err, new(*NotRepositoryError)) || !strings.Contains(err.Error(), "is not a directory") {
		t.Errorf("a file: %v", err)
	}
	// An empty directory, inside of somebody else's repository, becomes one of its own.
	w = newWorld(t)
	commit := w.commit("x", nil)
	w.push("main")
	w.repo = Open(filepath.Join(w.pusher, "inner"), w.bare, Options{})
	if err := os.Mkdir(w.repo.Dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	w.must(w.deploy("main", commit))
	w.assertLive(commit)
	if outer := w.git(w.pusher, "config", "--local", "--list"); strings.Contains(outer, "remote.origin") {
		t.Error("the outer repository was changed")
	}
}

func TestRemoteThatMoves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.commit("first", nil)
	w.push("main")
	w.must(w.deploy("main", first))
	moved := w.bare + "-moved"
	if err := os.Rename(w.bare, moved); err != nil {
		t.Fatal(err)
	}
	// The commit is here: a remote that is away does not matter.
	w.must(w.deploy("main", first))
	w.bare = moved
	second := w.commit("second", nil)
	w.push("main")
	if err := w.deploy("main", second); err == nil || !strings.Contains(err.Error(), "does not appear to be a git repository") {
		t.Errorf("the remote is away: %v", err)
	}
	w.repo = Open(w.repo.Dir(), "file://"+moved, Options{})
	err := w.deploy("main", second)
	if _, is := errors.AsType[*MovedRemoteError](err); !is || !strings.Contains(err.Error(), "`git -C "+w.repo.Dir()+" remote set-url origin file://"+moved+"`") {
		t.Errorf("the configuration names another repository: %v", err)
	}
	w.assertLive(first)
	w.git(w.repo.Dir(), "remote", "set-url", "origin", moved) // another way to say it
	w.must(w.deploy("main", second))
	w.assertLive(second)
	if url := w.git(w.repo.Dir(), "config", "remote.origin.url"); url != "file://"+moved {
		t.Errorf("origin is %q", url)
	}
}

func TestRepository_IsTheSameHoweverItIsReached(t *testing.T) {
	t.Parallel()
	for _, same := range [][]string{
		{"https://github.com/Owner/Name.git", "https://x:y@github.com/owner/name", "git@github.com:owner/name.git", "ssh://git@ssh.github.com:443/owner/name.git/", "github-website:owner/name"},
		{"/srv/git/name.git", "file:///srv/git/name.git", "/srv/git//name"},
	} {
		for _, remote := range same {
			if got, want := repository(remote), repository(same[0]); got != want || got == "" {
				t.Errorf("%s is %q, want %q", remote, got, want)
			}
		}
	}
	for _, other := range []string{"https://github.com/owner/other.git", "https://github.com/other/name.git", "/srv/git/other.git", "file:///srv/name.git"} {
		if got := repository(other); got == repository("https://github.com/owner/name") || got == repository("/srv/git/name.git") {
			t.Errorf("%s is %q, as another", other, got)
		}
	}
}

func TestCheckout_NothingOfTheRepositoryRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	proof := filepath.Join(t.TempDir(), "proof")
	first := w.commit("first", map[string]string{".gitmodules": "[submodule \"s\"]\n\tpath = s\n\turl = ext::touch " + proof + "\n"})
	w.push("main")
	w.must(w.deploy("main", first))
	for _, hook := range []string{"post-checkout", "reference-transaction", "post-index-change", "post-merge"} {
		path := filepath.Join(w.repo.Dir(), ".git", "hooks", hook)
		testkit.Program(t, path, "#!/bin/sh\ntouch "+proof+"\n")
	}
	w.git(w.repo.Dir(), "config", "core.fsmonitor", "touch "+proof)
	w.git(w.repo.Dir(), "config", "submodule.recurse", "true")
	_ = os.Remove(proof) // the two lines above ran it
	second := w.commit("second", map[string]string{"a": "1"})
	w.push("main")
	w.must(w.deploy("main", second))
	w.repo = Open(w.repo.Dir(), "ext::touch "+proof, Options{})
	if _, err := w.repo.RemoteTip(t.Context(), "main"); err == nil || !strings.Contains(err.Error(), "transport 'ext' not allowed") {
		t.Errorf("ext: %v", err)
	}
	if _, err := os.Stat(proof); err == nil {
		t.Error("something of the repository was run")
	}
}

// TestForeignOwner: as root, a working tree that belongs to the app's user.
func TestForeignOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.commit("first", nil)
	w.push("main")
	w.must(w.deploy("main", first))
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(w.repo.Dir(), link); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if out, err := exec.Command("chown", "-R", "nobody", w.repo.Dir()).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	second := w.commit("second", nil)
	w.push("main")
	w.must(w.deploy("main", second))
	w.repo = Open(link, w.bare, Options{})
	w.must(w.deploy("main", first))
	if head, err := w.repo.Head(t.Context()); err != nil || head != first {
		t.Errorf("HEAD is %q, %v", head, err)
	}
}

func TestCredentialsStaySecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// Nobody listens at port 1. git leaves the password out of some messages, and
	// repeats what it does not understand.
	for _, remote := range []string{
		"http://user:s3cr3t%2Ftoken@127.0.0.1:1/x.git", "http://s3cr3ttoken@127.0.0.1:1/x.git",
		"git://user:s3cr3ttoken@127.0.0.1:1/x.git",
	} {
		w.repo = Open(filepath.Join(t.TempDir(), "live"), remote, Options{})
		err := w.deploy("main", strings.Repeat("ab", 20))
		if err == nil {
			t.Fatal("no error")
		}
		_, tipErr := w.repo.RemoteTip(t.Context(), "main")
		config, _ := os.ReadFile(filepath.Join(w.repo.Dir(), ".git", "config"))
		for _, text := range []string{err.Error(), tipErr.Error(), w.out.String(), string(config)} {
			if strings.Contains(text, "s3cr3t") {
				t.Errorf("leaked: %s", text)
			}
		}
		if !strings.Contains(err.Error(), "127.0.0.1") || !strings.Contains(string(config), "127.0.0.1:1/x.git") {
			t.Errorf("it does not say which remote: %v\n%s", err, config)
		}
		for _, arg := range w.repo.environment() {
			if strings.Contains(arg, remote) && !strings.HasPrefix(arg, "GIT_CONFIG_VALUE_") {
				t.Errorf("the remote is in %q", arg)
			}
		}
	}
}

// TestManyAtOnce: several Repos on one directory exclude each other.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var commits []string
	for i := range 6 {
		commits = append(commits, w.commit(fmt.Sprint(i), map[string]string{"a": fmt.Sprint(i + 1)}))
	}
	w.push("main")
	var wg sync.WaitGroup
	errs := make([]error, len(commits))
	for i, commit := range commits {
		wg.Go(func() {
			repo := Open(w.repo.Dir(), w.bare, Options{})
			errs[i] = repo.EnsureClone(t.Context(), commit, nil)
			if errs[i] == nil {
				errs[i] = repo.FetchCommit(t.Context(), "main", commit, nil)
			}
			if errs[i] == nil {
				errs[i] = repo.Checkout(t.Context(), commit, nil)
			}
		})
	}
	wg.Wait()
	w.must(errors.Join(errs...))
	head, err := w.repo.Head(t.Context())
	w.must(err)
	w.assertLive(head)
}

// A host whose key has changed is named with its new key and the way on; ssh's last words
// begin with how to trust that.
func TestMessage_HostKeyHasChanged(t *testing.T) {
	t.Parallel()
	for _, remove := range []string{"", "  remove with:\r\n  ssh-keygen -f \"/state/known_hosts\" -R \"[127.0.0.1]:22\"\r\n"} { // Debian's
		said := "@@@@@\r\nIT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!\r\nThe fingerprint for the ED25519 key sent by the remote host is\nSHA256:AKU+x/y.\r\n" +
			"Please contact your system administrator.\r\nAdd correct host key in /state/known_hosts to get rid of this message.\r\nOffending ED25519 key in /state/known_hosts:2\r\n" +
			remove + "Host key for [127.0.0.1]:22 has changed and you have requested strict checking.\r\nHost key verification failed.\r\n"
		want := "Host key verification failed: the key of [127.0.0.1]:22 has changed. If its owner publishes the ED25519 key SHA256:AKU+x/y, " +
			"run `ssh-keygen -R \"[127.0.0.1]:22\" -f /state/known_hosts` as the owner of that file, and deploy again; if not, somebody else answers in its place"
		if got := hostChanged([]byte(said)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := hostChanged([]byte("Host key verification failed.\r\n")); got != "" {
		t.Errorf("an unknown host: %q", got)
	}
}

func TestMessage(t *testing.T) {
	t.Parallel()
	const noAnswer = "fatal: Could not read from remote repository.\n\nPlease make sure you have the correct access rights\nand the repository exists.\n"
	for said, want := range map[string]string{
		// Without a deploy key, without a known host, as another user: the cause is said first.
		"git@github.com: Permission denied (publickey).\r\n" + noAnswer:   "git@github.com: Permission denied (publickey).",
		"Warning: x\nHost key verification failed.\r\n" + noAnswer:        "Warning: x; Host key verification failed.",
		"fatal: detected dubious ownership\nTo add\n\n\tgit\n" + noAnswer: "fatal: detected dubious ownership; To add; git",
		noAnswer:                             "fatal: Could not read from remote repository.; Please make sure you have the correct access rights; and the repository exists.",
		"":                                   "",
		"From x\nfatal: bad\x1b[31m\r\nhint": "fatal: bad [31m; hint",
		"1\n2\n3\n4\n5\n":                    "2; 3; 4; 5",
		"error: \xff\n":                      "error: ?",
	} {
		var l lastBytes
		_, _ = l.Write([]byte(said))
		if got := l.message(); got != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
	}
}
