package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEnvironmentOfADeployment(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	top := write("top.env", "FROM=top file\nONLY_TOP=1\nTOP_TOKEN=hunter2-top\n")
	own := write("own.env", "FROM=own file\n")
	c, err := parse(environment("CI", "yes", "AWS_SECRET_KEY", "hunter2-aws", "OTHER", "no"), `
env_file = "`+top+`"
[env]
pass = ["CI", "AWS_SECRET_KEY", "NOT_SET"]
FROM = "top"
BOTH = "top"
PROXY = "http://joe:hunter2-proxy@proxy:3128"
`+web(build1, `env_file = ["`+own+`"]`, `env = { BOTH = "own", pass = ["OTHER", "FROM"] }`, `fetch_timeout = "2h"`)+`
[deployments.api]
repository = "o/api"
branch = "main"
path = "/srv/api"
handler = "command"
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"CI=yes", "AWS_SECRET_KEY=hunter2-aws", "OTHER=no", "BOTH=own", "FROM=own file", "ONLY_TOP=1",
		"PROXY=http://joe:hunter2-proxy@proxy:3128", "TOP_TOKEN=hunter2-top",
	}
	if got := c.Deployments["web"].Env; !slices.Equal(got, want) {
		t.Errorf("web has  %q\nwant %q", got, want)
	}
	if got := c.Deployments["api"].Env; !slices.Contains(got, "FROM=top") || slices.Contains(got, "OTHER=no") {
		t.Errorf("api has %q", got)
	}
	if c.Deployments["web"].FetchTimeout != 2*time.Hour {
		t.Errorf("fetch_timeout is %v", c.Deployments["web"].FetchTimeout)
	}
	for _, secret := range []string{"hunter2-top", "hunter2-aws", "hunter2-proxy"} {
		if !slices.Contains(c.Hidden(), Secret(secret)) {
			t.Errorf("%s is not hidden", secret)
		}
	}
	shown := map[string]string{}
	for _, v := range c.Origins() {
		if text := v.TOML(); strings.Contains(text, "hunter2") {
			t.Errorf("%s shows %s", v.Key, text)
		} else {
			shown[v.Key] = text + " " + v.Origin()
		}
	}
	for key, want := range map[string]string{
		"env.PROXY": `"http://joe:[secret]@proxy:3128" a.toml:7`, "env.ONLY_TOP": `"1" ` + top + ":2",
		"deployments.web.env.FROM": `"own file" ` + own + ":1",
	} {
		if shown[key] != want {
			t.Errorf("%s is shown as %q, not %q", key, shown[key], want)
		}
	}
}

// A user other than the worker's may load a configuration with files that only
// the worker may read; a worker may not.
func TestEnvFileThatMayNotBeRead(t *testing.T) {
	c := mustParse(t, web(build1, `env_file = "/forbidden/web.env"`))
	if p := c.Problems(); len(p) != 1 || p[0].Line != 6 || !strings.Contains(p[0].Message, "permission denied") {
		t.Errorf("problems: %v", p)
	}
	c = mustParse(t, web(build1, `env_file = "/forbidden/web.env"`, "enabled = false"))
	if p := c.Problems(); len(p) != 0 {
		t.Errorf("problems of a disabled deployment: %v", p)
	}
}

func TestParseDotenv(t *testing.T) {
	for text, want := range map[string]string{
		"A=1\nB = two words \n# c\n\nexport C=x#y # z\n":          "A=1|B=two words|C=x#y",
		"\ufeffA=\r\nB=#fff\r\nC= # nothing\r\n":                  "A=|B=#fff|C=",
		`A='a "b" $C \n'` + "\n" + `B="a 'b' $C \"\\\$\n\q"  # c`: "A=a \"b\" $C \\n|B=a 'b' $C \"\\$\n\\q",
		"KEY=\"-----BEGIN\nline 2  \n# not a comment\n\"\nD=$A":   "KEY=-----BEGIN\nline 2  \n# not a comment\n|D=$A",
		"exported=1\nexport=2":                                    "exported=1|export=2",
		"A=1\nA=2":                                                "A=1|A=2",
	} {
		list, line, wrong := parseDotenv(text)
		var got []string
		for _, a := range list {
			got = append(got, a.name+"="+a.value)
		}
		if strings.Join(got, "|") != want || wrong != "" {
			t.Errorf("%q: %q, line %d %s; want %q", text, got, line, wrong, want)
		}
	}
	for text, want := range map[string]int{
		"A=1\nB": 2, "A=1\n\n1A=2": 3, "A='1\nB=2\n": 1, "A='1\n'\nB=2\nC='1' 2": 4, "a.b=1": 1, "A=1\nB=\x00": 2, "=1": 1,
	} {
		if list, line, wrong := parseDotenv(text); wrong == "" || line != want || list != nil {
			t.Errorf("%q: %v, line %d %s; want line %d", text, list, line, wrong, want)
		}
	}
}

func FuzzParseDotenv(f *testing.F) {
	f.Add("A=1\nexport B='x\ny' # c\nC=\"\\n\"")
	f.Fuzz(func(t *testing.T, text string) {
		list, line, wrong := parseDotenv(text)
		if (wrong == "") != (line == 0) || line > strings.Count(text, "\n")+1 {
			t.Fatalf("line %d: %q", line, wrong)
		}
		for _, a := range list {
			if !variablePattern.MatchString(a.name) || strings.ContainsRune(a.value, 0) || a.line < 1 {
				t.Fatalf("%+v", a)
			}
		}
	})
}
