package dashboard

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRunLog_WholeIsAsItWasWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	written := strings.Repeat("a line <b> \x1b[31mred\x1b[0m\n", 20_000)
	w.write("d-1", "web", 1, written)
	answer := w.get("/deliveries/d-1/log?deployment=web&attempt=1", http.StatusOK)
	if got := answer.Body.String(); got != written {
		t.Errorf("%d bytes of %d", len(got), len(written))
	}
	for key, want := range map[string]string{"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"} {
		if got := answer.Header().Get(key); got != want {
			t.Errorf("%s is %q", key, got)
		}
	}
}

func TestRunLog_TailIsBoundedAndSentOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("d-1", "web", 1, strings.Repeat("x", 3*tailBytes)+"\n"+strings.Repeat("line\n", 2*tailLines)+"<last>\n")
	const path = "/deliveries/d-1/tail?deployment=web&attempt=1"
	first := w.get(path, http.StatusOK)
	body := first.Body.String()
	if n := strings.Count(body, "line\n"); n != tailLines-1 || !strings.Contains(body, "&lt;last&gt;") {
		t.Errorf("%d lines: %.200s", n, body)
	}
	again := httptest.NewRequest(http.MethodGet, path, nil)
	again.Header.Set("If-None-Match", first.Header().Get("ETag"))
	answer := httptest.NewRecorder()
	w.handler.ServeHTTP(answer, again)
	if answer.Code != http.StatusNotModified || answer.Body.Len() > 0 {
		t.Errorf("the same again: %d, %d bytes", answer.Code, answer.Body.Len())
	}
}

// What stands in the place of a run log need not be one: a link out of the directory, a
// directory, a pipe.
func TestRunLog_LeadsNowhereElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("d-1", "web", 1, "x")
	dir := filepath.Join(w.cfg.StateDir, "runs", "web")
	secret := filepath.Join(w.cfg.StateDir, "signer.key")
	for _, err := range []error{
		os.WriteFile(secret, []byte("secret"), 0o600), os.Symlink(secret, filepath.Join(dir, "d-2-1.log")), os.Mkdir(filepath.Join(dir, "d-3-1.log"), 0o700),
		unix.Mkfifo(filepath.Join(dir, "d-4-1.log"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"d-2", "d-3", "d-4"} {
		if body := w.get("/deliveries/"+id+"/log?deployment=web&attempt=1", http.StatusInternalServerError).Body.String(); strings.Contains(body, "secret") {
			t.Errorf("%s: %s", id, body)
		}
	}
}
