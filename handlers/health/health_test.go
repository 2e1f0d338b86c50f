package health

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type plain struct{}

func (plain) Plan(context.Context, handlers.Job) (handlers.Plan, error) {
	return handlers.Plan{Steps: []handlers.Step{{Name: "first", Run: func(context.Context, handlers.Env) error { return nil }}}}, nil
}

// check runs a plan that ends with the check.
func check(ctx context.Context, t *testing.T, cfg Config) (handlers.Result, string) {
	t.Helper()
	cfg.Interval, cfg.Successes = time.Millisecond, max(cfg.Successes, 1)
	plan, err := Checked(plain{}, source.Source{Path: t.TempDir()}, cfg).Plan(t.Context(), handlers.Job{})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	r := handlers.Execute(ctx, plan, handlers.Env{Out: &out, Mask: strings.NewReplacer("s3cret", "***").Replace, Vars: []string{"PATH=/usr/bin:/bin", "STAGE=run"}, Grace: 20 * time.Millisecond}, nil)
	if len(r.Steps) != 2 || r.Steps[1].Name != "health" {
		t.Errorf("steps %+v", r.Steps)
	}
	return r, out.String()
}

// patiently tries with longer and longer timeouts, for a busy machine.
func patiently(t *testing.T, try func(timeout time.Duration) (wrong string)) {
	t.Helper()
	for timeout := 300 * time.Millisecond; ; timeout *= 6 {
		switch wrong := try(timeout); {
		case wrong == "":
			return
		case timeout > 10*time.Second:
			t.Error(wrong)
			return
		}
	}
}

func TestHealth_OneAnswer(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 300)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			fmt.Fprint(w, "all is well")
		case "/empty":
			w.WriteHeader(http.StatusNoContent)
		case "/moved":
			http.Redirect(w, r, "/ok?token=abc", http.StatusFound)
		case "/long":
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, long+"\x1b")
		case "/cut":
			w.Header().Set("Location", long[:197]+"s3cret")
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, long[:197]+"s3cret")
		case "/endless":
			for r.Context().Err() == nil {
				fmt.Fprint(w, long)
			}
		case "/hang":
			<-r.Context().Done()
		case "/stuck":
			w.WriteHeader(http.StatusOK)
			fmt.Fprint(w, "half")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	}))
	t.Cleanup(server.Close)
	for name, test := range map[string]struct {
		url    string
		status int
		text   string
		want   string // "" is healthy
	}{
		"2xx":                  {url: "/ok"},
		"2xx without a body":   {url: "/empty"},
		"the status":           {url: "/empty", status: 204},
		"another status":       {url: "/ok", status: 204, want: `/ok answered 200 OK, "all is well"; 204 is healthy`},
		"a status of failure":  {url: "/moved", status: 302},
		"the text":             {url: "/ok", text: "is well"},
		"no text":              {url: "/ok", text: "is bad", want: `answered 200 OK, "all is well"; "is bad" is not in it`},
		"a redirect":           {url: "/moved", want: `answered 302 Found to "/ok?token=abc"`},
		"a long answer":        {url: "/long", want: `answered 500 Internal Server Error, "` + long[:200] + `"`},
		"a secret that is cut": {url: "/cut", want: `answered 500 Internal Server Error to "` + long[:197] + `***", "` + long[:197] + `***"`},
		"an answer to no end":  {url: "/endless", status: 201, want: "answered 200 OK"},
		"no answer":            {url: "/hang", want: "did not answer: "},
		"an answer that stops": {url: "/stuck", want: `answered 200 OK, "half", and then no more: `},
		"a query":              {url: "/hang?key=hunter2", want: "/hang?[secret] did not answer: "},
		"nobody there":         {url: "http://127.0.0.1:1", want: "did not answer: dial tcp"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := test.url
			if strings.HasPrefix(address, "/") {
				address = server.URL + address
			}
			patiently(t, func(timeout time.Duration) string {
				r, out := check(t.Context(), t, Config{URL: address, Status: test.status, Text: test.text, Timeout: timeout})
				switch {
				case test.want == "" && r.Err != nil:
					return fmt.Sprintf("it failed: %v", r.Err)
				case test.want == "":
				case r.Err == nil, !strings.Contains(r.Err.Error(), test.want), !strings.HasPrefix(r.Err.Error(), fmt.Sprintf(`step "health": not healthy within %s: http`, timeout)):
					return fmt.Sprintf("the error is %v, want %q", r.Err, test.want)
				case strings.Contains(r.Err.Error()+out, "hunter2"), strings.Count(out, "\n") > 2:
					return fmt.Sprintf("the output is %q", out)
				}
				return ""
			})
		})
	}
}

// Healthy answers count from the last one that was not.
func TestHealth_SuccessesFollowEachOther(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n := asked.Add(1); n == 1 || n == 4 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(server.Close)
	if r, _ := check(t.Context(), t, Config{URL: server.URL, Successes: 3, Timeout: time.Minute}); r.Err != nil || asked.Load() != 7 {
		t.Errorf("asked %d times: %v", asked.Load(), r.Err)
	}
}

// A check whose time was over before there were enough healthy answers says so.
func TestHealth_TooFewSuccesses(t *testing.T) {
	t.Parallel()
	for want, answers := range map[string][]error{
		"healthy in a row only 2 of 3 times within 1s":                   {nil, nil},
		"healthy in a row only 1 of 3 times within 1s; before that: 503": {errors.New("503"), nil},
	} {
		ask := func(ctx context.Context, _ handlers.Env) error {
			if len(answers) == 0 {
				<-ctx.Done()
				return context.Cause(ctx)
			}
			answer := answers[0]
			answers = answers[1:]
			return answer
		}
		if err := (Config{Timeout: time.Second, Successes: 3}).await(t.Context(), handlers.Env{}, ask); err == nil || err.Error() != want {
			t.Errorf("the error is %v, want %q", err, want)
		}
	}
}

func TestHealth_Command(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "there")
	sh := func(script string) []string { return []string{"sh", "-c", script, "sh", file} }
	if r, _ := check(t.Context(), t, Config{Command: sh(`test "$STAGE" = run || exit 9; test -e "$1" || { touch "$1"; exit 1; }`), Timeout: time.Minute}); r.Err != nil {
		t.Errorf("the second answer is healthy: %v", r.Err)
	}
	patiently(t, func(timeout time.Duration) string {
		r, out := check(t.Context(), t, Config{Command: sh("echo broken; exit 3"), Timeout: timeout})
		if r.Err == nil || !strings.Contains(r.Err.Error(), fmt.Sprintf("not healthy within %s: sh exited with code 3", timeout)) || r.ExitCode == nil || *r.ExitCode != 3 || !strings.Contains(out, "broken\n") {
			return fmt.Sprintf("result %+v\n%s", r, out)
		}
		return ""
	})
	patiently(t, func(timeout time.Duration) string {
		r, _ := check(t.Context(), t, Config{Command: []string{"sleep", "1000"}, Timeout: timeout})
		if r.Err == nil || r.Signal != "SIGTERM" || r.Canceled {
			return fmt.Sprintf("result %+v", r)
		}
		return ""
	})
}

// A run that is ended does not wait for an answer, and is not taken for one whose app
// is not healthy.
func TestHealth_EndsWithTheRun(t *testing.T) {
	t.Parallel()
	errLost := errors.New("the lock was lost")
	file := filepath.Join(t.TempDir(), "asked")
	for _, command := range []string{`touch "$1"; exec sleep 1000`, `test -e "$1" && exec sleep 1000; touch "$1"; exit 7`} {
		_ = os.Remove(file)
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			for _, err := os.Stat(file); err != nil; _, err = os.Stat(file) {
				time.Sleep(time.Millisecond)
			}
			cancel(errLost)
		}()
		r, _ := check(ctx, t, Config{Command: []string{"sh", "-c", command, "sh", file}, Timeout: time.Hour})
		if !r.Canceled || !errors.Is(r.Err, errLost) || r.ExitCode != nil {
			t.Errorf("%s: result %+v", command, r)
		}
	}
}
