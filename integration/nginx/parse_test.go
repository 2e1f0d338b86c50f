//go:build integration

package nginx_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ducompsoc/durhack-deployer/internal/nginxconf"
)

var unknownDirective = regexp.MustCompile(`(?s)unknown directive "(.*)" in /`)

// nginx stops at the first directive that it does not know: what comes before, it and
// the reader must have cut into the same words.
func TestParse_AgreesWithNginx(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := &site{T: t, dir: dir}
	s.file("nginx.conf", fmt.Sprintf("pid %[1]s/pid;\nerror_log stderr;\nevents {}\ninclude %[1]s/part;\n", dir))
	pieces := rapid.SampledFrom([]string{
		"env ", "env a;", "mark b;", "a", "`", "\"", "'", "\\", "$", "{", "}", "${", ";", " ", "\n", "\t", "\r", "#", ")", "env a ", "\\n",
	})
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(pieces, 1, 20).Draw(t, "text"), "")
		s.file("part", text)
		out, _ := exec.Command("nginx", "-t", "-q", "-e", "stderr", "-p", dir, "-c", filepath.Join(dir, "nginx.conf")).CombinedOutput()
		nginx := "fine"
		if m := unknownDirective.FindStringSubmatch(string(out)); m != nil {
			nginx = "unknown " + m[1]
		} else if strings.Contains(string(out), `"env" directive`) || strings.Contains(string(out), `directive "env"`) {
			nginx = "env"
		} else if strings.Contains(string(out), "unexpected ") {
			nginx = "syntax"
		} else if len(out) > 0 {
			nginx = string(out)
		}
		list, err := nginxconf.Parse([]byte(text))
		ours := "fine"
		if err != nil {
			ours = "syntax"
		}
		for _, d := range list {
			if d.Name() != "env" {
				ours = "unknown " + d.Name()
				break
			} else if d.Block || len(d.Words) != 2 {
				ours = "env"
				break
			}
		}
		if ours != nginx {
			t.Fatalf("%q is to nginx %q, to us %q", text, nginx, ours)
		}
	})
}
