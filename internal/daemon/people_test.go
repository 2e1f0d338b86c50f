package daemon

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/githubtest"
	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

// What the signer does not see, because it keeps to the hashes, verify does.
func TestLook_TellsThatVerifyFoundAnotherLog(t *testing.T) {
	t.Parallel()
	cfg := &config.Config{StateDir: t.TempDir()}
	for content, want := range map[string]string{
		`{"breaches":[]}`: "",
		`{"breaches":["queue web: an entry is missing"]}`: "",
		`{"at":"2026-01-31T15:04:05Z","breaches":["queue web: an entry is missing","log: position 30: it was changed","log: position 31: it was changed"]}`: "verify, at 2026-01-31 15:04 UTC: log: position 30: it was changed; log: position 31: it was changed",
	} {
		if err := os.WriteFile(answer.VerifiedPath(cfg), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		var got []string
		list, _ := new(condition).look(t.Context(), cfg)
		for _, c := range list {
			if c.What == config.OnTampered {
				got = append(got, c.Text+" "+c.Quoted)
			}
		}
		if strings.Join(got, "\n") != want {
			t.Errorf("%s tells %q, want %q", content, got, want)
		}
	}
}

// Pushes need no credentials of those who are told: they go live without, and what is
// owed is told once the files are there.
func TestWorkerStartsWithoutTheCredentialsOfWhatFollows(t *testing.T) {
	hub := &githubtest.Server{}
	if err := hub.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer hub.Close()
	var told atomic.Int32
	people := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { told.Add(1) }))
	defer people.Close()
	dir := t.TempDir()
	token, url := filepath.Join(dir, "token"), filepath.Join(dir, "url")
	s := newSite(t, pgtest.DSN(t), fmt.Sprintf("[github]\napi_url = %q\ntoken_file = %q\n[[notify]]\nname = \"team\"\non = [\"deployed\"]\nurl_file = %q\n", hub.URL(), token, url))
	if wrong := fmt.Sprint(Wrong(s.cfg, true, true)); !strings.Contains(wrong, "github.token_file") || !strings.Contains(wrong, "url_file") {
		t.Errorf("what is wrong is %s", wrong)
	}
	d := s.run(true, true)
	s.push(d, "d1")
	s.expectDeployed(d, "d1")
	untold := func() int {
		return strings.Count(d.out.String(), `level=ERROR msg="GitHub or people cannot be told for now, while deploys go on: `)
	}
	s.wait(d, "it says what is wrong", func() bool { return untold() >= 2 })
	if n := untold(); n != 2 {
		t.Errorf("%d errors in the log, want one for each file:\n%s", n, d.out)
	}
	for file, content := range map[string]string{token: githubtest.Token, url: "generic+" + people.URL + "/?disabletls=yes"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.wait(d, "GitHub and people are told", func() bool {
		return told.Load() == 1 && slices.ContainsFunc(hub.Statuses(), func(one githubtest.Status) bool { return one.State == "success" })
	})
	s.mustStop(d)
}
