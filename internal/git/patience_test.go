package git

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/testkit"
)

// server serves the world's bare repository over HTTP, but for the answers that
// it gives first.
type server struct {
	*httptest.Server
	asked atomic.Int64
	// refuse gives the status of a request instead of an answer; 0 answers.
	refuse func(n int64) int
}

func (w *world) serve(refuse func(n int64) int) *server {
	w.t.Helper()
	execPath := w.git(w.bare, "--exec-path")
	backend := &cgi.Handler{
		Path: filepath.Join(execPath, "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + filepath.Dir(w.bare), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	}
	s := &server{refuse: refuse}
	s.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if status := s.refuse(s.asked.Add(1)); status != 0 {
			http.Error(rw, "refused", status)
			return
		}
		backend.ServeHTTP(rw, r)
	}))
	w.t.Cleanup(s.Close)
	return s
}

func (s *server) url() string { return s.URL + "/remote.git" }

// notes are what a patient Repo says; each calls then.
type notes struct {
	lines []string
	then  func()
}

func (n *notes) tell(why string) {
	n.lines = append(n.lines, why)
	if n.then != nil {
		n.then()
	}
}

// patient is the Repo under test with another remote and a patience for tests.
func (w *world) patient(remote string, patience time.Duration) (*Repo, *notes) {
	said := &notes{}
	r := Open(w.repo.Dir(), remote, w.repo.opts).Patient(patience, said.tell)
	return r, said
}

const soon = 12 * time.Second // so the first pause is 100 ms

func TestFetchCommitWaitsForARemoteThatIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	commit := w.commit("one", map[string]string{"a": "1"})
	w.push("main")
	s := w.serve(func(n int64) int {
		return map[int64]int{1: 503, 2: 500, 3: 429}[n]
	})
	repo, said := w.patient(s.url(), soon)
	w.must(repo.EnsureClone(t.Context(), commit, &w.out))
	w.must(repo.FetchCommit(t.Context(), "main", commit, &w.out))
	w.must(repo.Checkout(t.Context(), commit, &w.out))
	w.assertLive(commit)
	if len(said.lines) != 3 || !strings.Contains(said.lines[0], "503; asking again in 100ms") {
		t.Errorf("said %q", said.lines)
	}
}

func TestFetchCommitWaitsForACommitThatIsLate(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(w *world){
		"of a branch":     func(w *world) { w.commit("old", nil); w.push("main") },
		"of a new branch": func(*world) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			prepare(w)
			commit := w.commit("new", map[string]string{"a": "1"})
			repo, said := w.patient(w.bare, soon)
			said.then = func() { w.push("main") }
			w.must(repo.EnsureClone(t.Context(), commit, &w.out))
			w.must(repo.FetchCommit(t.Context(), "main", commit, &w.out))
			if len(said.lines) != 1 {
				t.Errorf("said %q", said.lines)
			}
		})
	}
}

func TestRemoteTipWaitsForARemoteThatIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	commit := w.commit("one", nil)
	w.push("main")
	s := w.serve(func(n int64) int { return map[int64]int{1: 502}[n] })
	repo, said := w.patient(s.url(), soon)
	if tip, err := repo.RemoteTip(t.Context(), "main"); tip != commit || err != nil || len(said.lines) != 1 {
		t.Errorf("tip %q, %v; said %q", tip, err, said.lines)
	}
}

func TestTipAfterWaitsForThePush(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.commit("one", nil), w.commit("two", nil)
	w.push("main")
	repo, said := w.patient(w.bare, soon)
	said.then = func() { w.git(w.bare, "update-ref", "refs/heads/main", first) }
	if tip, err := repo.TipAfter(t.Context(), "main", second); tip != first || err != nil || len(said.lines) != 1 {
		t.Errorf("moved back: tip %q, %v; said %q", tip, err, said.lines)
	}
	said.then = func() { w.git(w.bare, "update-ref", "refs/heads/other", first) }
	if tip, err := repo.TipAfter(t.Context(), "other", strings.Repeat("0", 40)); tip != first || err != nil || len(said.lines) != 2 {
		t.Errorf("made: tip %q, %v; said %q", tip, err, said.lines)
	}
	repo, _ = w.patient(w.bare, time.Millisecond)
	if tip, err := repo.TipAfter(t.Context(), "main", first); tip != first || err != nil {
		t.Errorf("still there: %q, %v", tip, err)
	}
	if tip, err := repo.TipAfter(t.Context(), "none", strings.Repeat("0", 40)); tip != "" || err == nil {
		t.Errorf("still missing: %q, %v", tip, err)
	}
}

// An answer that will not change is given at once: with this patience the test
// would not end.
func TestLastingAnswersAreNotWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	commit := w.commit("one", nil)
	w.push("main")
	remotes := map[string]string{
		"no path": filepath.Join(t.TempDir(), "none.git"), "ssh": "ssh://git@example.invalid/x.git", "scheme": "ext::true",
		"a helper": "nonsense::x",
	}
	for _, status := range []int{400, 401, 403, 404, 410} {
		s := w.serve(func(int64) int { return status })
		remotes[fmt.Sprint(status)] = s.url()
	}
	for name, remote := range remotes {
		t.Run(name, func(t *testing.T) {
			repo, said := w.patient(remote, 24*time.Hour)
			repo.dir = filepath.Join(t.TempDir(), "live")
			repo.opts.Vars = append(os.Environ(), "GIT_SSH_COMMAND=sh -c 'echo Host key verification failed. >&2; exit 255'")
			w.must(repo.EnsureClone(t.Context(), commit, &w.out))
			if err := repo.FetchCommit(t.Context(), "main", commit, &w.out); err == nil || len(said.lines) > 0 {
				t.Errorf("fetch: %v; said %q", err, said.lines)
			}
			if _, err := repo.RemoteTip(t.Context(), "main"); err == nil || len(said.lines) > 0 {
				t.Errorf("ls-remote: %v; said %q", err, said.lines)
			}
		})
	}
}

// Answers of remotes and ssh, in git's own words and others'.
func TestLastingWords(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"fatal: No url found for submodule path 'lib' in .gitmodules":                                                      true,
		"fatal: no submodule mapping found in .gitmodules for path 'lib'":                                                  true,
		"fatal: unable to access 'https://h/': The requested URL returned error: 503":                                      false,
		"fatal: unable to access 'https://h/': The requested URL returned error: 429":                                      false,
		"fatal: unable to access 'https://h/': The requested URL returned error: 408":                                      false,
		"fatal: unable to access 'https://h/': The requested URL returned error: 403":                                      true,
		"error: RPC failed; HTTP 401 curl 22 The requested URL returned error: 401":                                        true,
		"fatal: unable to access 'https://h/': CONNECT tunnel failed, response 407":                                        true,
		"fatal: unable to access 'https://h/': CONNECT tunnel failed, response 502":                                        false,
		"fatal: unable to access 'https://h/': Could not resolve host: h":                                                  false,
		"fatal: unable to access 'https://h/': gnutls_handshake() failed: The TLS connection was non-properly terminated.": false,
		"fatal: unable to access 'https://h/': OpenSSL SSL_connect: Connection reset by peer":                              false,
		"fatal: unable to access 'https://h/': server certificate verification failed. CAfile: none":                       true,
		"fatal: unable to access 'https://h/': SSL certificate problem: self-signed certificate":                           true,
		"fatal: could not read Username for 'https://github.com': terminal prompts disabled":                               true,
		"remote: Invalid username or token.\nfatal: Authentication failed for 'https://github.com/'":                       true,
		"remote: Repository not found.\nfatal: repository 'https://github.com/o/r.git/' not found":                         true,
		"ERROR: Repository not found.\nfatal: Could not read from remote repository.":                                      true,
		"git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.":                             true,
		"ssh: Could not resolve hostname h: Temporary failure in name resolution":                                          false,
		"ssh: connect to host h port 22: Connection refused":                                                               false,
		"kex_exchange_identification: Connection closed by remote host":                                                    false,
		"fatal: early EOF\nfatal: fetch-pack: invalid index-pack output":                                                   false,
		"fatal: remote error: upload-pack: not our ref " + strings.Repeat("ab", 20):                                        false,
		"remote: Internal Server Error":                                                                                    false,
		"fatal: write error: No space left on device":                                                                      true,
	} {
		if lasting.MatchString(text) != want {
			t.Errorf("%q: lasting is %v", text, !want)
		}
	}
}

func TestPatienceEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.serve(func(int64) int { return 503 })
	repo, said := w.patient(s.url(), 120*time.Millisecond)
	_, err := repo.RemoteTip(t.Context(), "main")
	if err == nil || !strings.Contains(err.Error(), "503 (asked ") || len(said.lines) == 0 {
		t.Errorf("%v; said %q", err, said.lines)
	}

	repo, said = w.patient(s.url(), 24*time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said.then = cancel
	if _, err := repo.RemoteTip(ctx, "main"); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "503") {
		t.Errorf("%v", err)
	}
}

// Where the time is up while the remote answers, that is why it is not asked again.
func TestPatience_IsCutShortWhileTheRemoteAnswers(t *testing.T) {
	t.Parallel()
	repo, said := newWorld(t).patient("https://h/x.git", time.Hour)
	ctx, cancel := context.WithCancelCause(t.Context())
	errUp := errors.New("the time is up")
	err := repo.patiently(ctx, func(error) bool { return true }, func() error {
		cancel(errUp)
		return errors.New("503")
	})
	if !errors.Is(err, errUp) || !strings.Contains(err.Error(), "503") || len(said.lines) > 0 {
		t.Errorf("%v; said %q", err, said.lines)
	}
}

func TestLowSpeedLimitsOnlyWhereGitHasNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	global := filepath.Join(t.TempDir(), "gitconfig")
	for content, want := range map[string]string{
		"":                         "[[http.lowSpeedLimit 1000] [http.lowSpeedTime 60]]",
		"[http]\nlowSpeedTime = 5": "[[http.lowSpeedLimit 1000]]",
		"[http \"https://h\"]\nlowspeedlimit = 0":           "[[http.lowSpeedTime 60]]",
		"[http \"https://other\"]\nlowSpeedLimit = 0":       "[[http.lowSpeedLimit 1000] [http.lowSpeedTime 60]]",
		"[http]\nlowSpeedTime = 5\nlowSpeedLimit = 1000000": "[]",
	} {
		w.write(global, content)
		w.repo.opts.Vars = append(os.Environ(), "GIT_CONFIG_GLOBAL="+global, "GIT_CONFIG_NOSYSTEM=1")
		w.repo.remote = "https://h/o/r.git"
		if got := fmt.Sprint(w.repo.contact(t.Context(), "/").config); got != want {
			t.Errorf("with %q: %s", content, got)
		}
	}
}

// Settings in GIT_CONFIG_ variables count beside those that we need.
func TestConfiguredGitConfigVariables(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.repo.opts.Vars = append(os.Environ(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=test.theirs", "GIT_CONFIG_VALUE_0=yes")
	for key, want := range map[string]string{"test.theirs": "yes", "core.hooksPath": "/dev/null"} {
		cmd := exec.Command("git", "config", key)
		cmd.Env = w.repo.environment()
		if out, err := cmd.Output(); err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%s is %q, %v", key, out, err)
		}
	}
}

// A refusal by the remote is no reason to clone again.
func TestDamageWords(t *testing.T) {
	t.Parallel()
	hash := strings.Repeat("ab", 20)
	for text, want := range map[string]bool{
		"fatal: could not read Username for 'https://h': terminal prompts disabled": false,
		"fatal: Could not read from remote repository.":                             false,
		"error: unable to read askpass response from '/bin/askpass'":                false,
		"error: Could not read " + hash:                                             true,
		"fatal: unable to read tree (" + hash + ")":                                 true,
		"fatal: unable to read " + hash:                                             true,
		"fatal: Could not parse object '" + hash + "'.":                             true,
		"error: unable to parse commit " + hash:                                     true,
	} {
		if damage.MatchString(text) != want {
			t.Errorf("%q: damage is %v", text, !want)
		}
	}
}

// A git that is too old is named as what is wrong, and not asked again.
func TestGitThatIsTooOld(t *testing.T) {
	t.Parallel()
	for _, old := range []string{
		"for a; do [ \"$a\" != --end-of-options ] || { echo \"error: unknown option \\`end-of-options'\" >&2; exit 129; }; done",
		"unset GIT_CONFIG_COUNT",
	} {
		w := newWorld(t)
		commit := w.commit("first", map[string]string{"a": "1"})
		w.push("main")
		dir := t.TempDir()
		git, err := exec.LookPath("git")
		w.must(err)
		testkit.Program(t, filepath.Join(dir, "git"), "#!/bin/sh\n"+old+"\nexec "+git+" \"$@\"\n")
		w.repo.opts.SearchPaths = []string{dir}
		w.repo = w.repo.Patient(time.Hour, func(why string) { t.Errorf("it is asked again: %s", why) })
		if err := w.deploy("main", commit); err == nil || !strings.Contains(err.Error(), "this git is too old, install 2.39 or newer: ") {
			t.Errorf("the error is %v", err)
		}
	}
}
