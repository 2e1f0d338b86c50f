package daemon

import (
	"os"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
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
