package daemon

import (
	"maps"
	"net/http"
	"os"
	"strings"
	"testing"
)

// Requests that the listener refuses are counted where doctor finds them, also after a restart,
// and its line names the delivery that it claimed to be.
func TestRefusedWebhooksAreCounted(t *testing.T) {
	s := newSite(t, "", "")
	refuse := func(times int) {
		d := s.run(true, false)
		for range times {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+d.addr.String()+"/github-webhook", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-GitHub-Delivery", "their-word")
			req.Header.Set("X-Hub-Signature-256", "sha256="+strings.Repeat("0", 64))
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		resp, err := http.Get("http://" + d.addr.String() + "/somewhere/else") // not a webhook
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		s.mustStop(d)
		if !strings.Contains(d.out.String(), `reason=signature_mismatch unverified_delivery=their-word`) {
			t.Errorf("the claimed delivery is not in\n%s", d.out)
		}
	}
	refuse(2)
	refuse(1)
	counts, err := Refused(s.cfg)
	if want := map[string]int{"signature_mismatch": 3}; err != nil || !maps.Equal(counts, want) {
		t.Errorf("counted %v, %v, want %v", counts, err, want)
	}
	if err := os.WriteFile(refusalsPath(s.cfg), []byte("not JSON"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Refused(s.cfg); err == nil {
		t.Error("a damaged file is no error")
	}
}
