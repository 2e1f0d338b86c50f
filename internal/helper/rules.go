package helper

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// DefaultRules is where the rules are.
const DefaultRules = "/etc/durhack-deployer/" + config.HelperFile

// Rules are what root allows. What a rule does not name is refused.
type Rules struct {
	// User is who may ask, besides root.
	User string `toml:"user" default:"durhack-deployer"`
	// Restart and Reload are the units that may be restarted and reloaded.
	Restart []string `toml:"restart" check:"unit" default:"[]"`
	Reload  []string `toml:"reload" check:"unit" default:"[]"`

	Nginx        Nginx        `toml:"nginx"`
	Certificates Certificates `toml:"certificates"`
	PM2          PM2          `toml:"pm2"`

	file string
}

// Nginx is about nginx-test, nginx-reload and nginx-errors; without a unit they are
// refused, unless nginx is to be reloaded by its own signal.
type Nginx struct {
	Unit   string `toml:"unit" check:"unit"`
	Signal bool   `toml:"signal"`
	// Command is nginx, and options that it always gets.
	Command  []string `toml:"command"`
	ErrorLog string   `toml:"error_log" check:"dir" default:"/var/log/nginx/error.log"`
}

// Certificates is about certificate and certificate-info; without names they are refused.
type Certificates struct {
	// Names are the sites, and the names in a certificate, that may be asked for:
	// "example.com", "*.example.com" for all below, or "*".
	Names []string `toml:"names" default:"[]"`
	// Command is certbot, and options that it always gets.
	Command       []string `toml:"command"`
	Authenticator string   `toml:"authenticator" choice:"nginx webroot" default:"nginx"`
	Webroot       string   `toml:"webroot" check:"dir"`
	// Server is the CA's, Email the account's; either may be empty.
	Server string `toml:"server"`
	Email  string `toml:"email"`
	Live   string `toml:"live" check:"dir" default:"/etc/letsencrypt/live"`
	Log    string `toml:"log" check:"dir" default:"/var/log/letsencrypt/letsencrypt.log"`
}

// PM2 is about start-pm2; without a unit it is refused.
type PM2 struct {
	Unit string `toml:"unit" check:"unit"`
}

const maxRules = 1 << 20

// LoadRules reads the rules from a file that only root can have written.
func LoadRules(file string) (Rules, error) { return loadRules(file, 0) }

// loadRules takes a file of the owner's, too.
func loadRules(file string, owner int) (Rules, error) {
	// The way to it first: whoever can rename a directory of it chooses the file.
	for dir := filepath.Dir(file); ; dir = filepath.Dir(dir) {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return Rules{}, &os.PathError{Op: "stat", Path: dir, Err: err}
		}
		if err := guarded(dir, st, owner, unix.S_ISVTX); err != nil {
			return Rules{}, err
		}
		if dir == "/" || dir == "." {
			break
		}
	}
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return Rules{}, fmt.Errorf("there is no %s, so nothing is allowed: write it as docs/handlers/helper.md says", file)
	}
	if err != nil {
		return Rules{}, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Rules{}, &os.PathError{Op: "stat", Path: file, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return Rules{}, fmt.Errorf("%s is not a regular file", file)
	}
	if err := guarded(file, st, owner, 0); err != nil {
		return Rules{}, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxRules))
	if err != nil {
		return Rules{}, err
	}
	return parseRules(file, data)
}

// guarded says that somebody else could have written what is at path. Where one of the
// bits of mode is set, others may write to it, as to /tmp.
func guarded(path string, st unix.Stat_t, owner int, allowed uint32) error {
	switch {
	case st.Uid != 0 && int(st.Uid) != owner:
		return fmt.Errorf("%s does not belong to root, so its rules are refused: chown root %[1]s", path)
	case st.Mode&0o022 != 0 && st.Mode&allowed == 0:
		return fmt.Errorf("%s can be written by others than root, so its rules are refused: chmod go-w %[1]s", path)
	}
	return nil
}

func parseRules(file string, data []byte) (Rules, error) {
	r := Rules{file: file}
	r.Nginx.Command, r.Certificates.Command = []string{"/usr/sbin/nginx"}, []string{"/usr/bin/certbot"}
	if err := config.Decode(file, data, &r); err != nil {
		return Rules{}, err
	}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%s: "+format, append([]any{file}, args...)...)
	}
	for key, argv := range map[string][]string{"nginx.command": r.Nginx.Command, "certificates.command": r.Certificates.Command} {
		if len(argv) == 0 || !filepath.IsAbs(argv[0]) {
			return Rules{}, wrong(`%s must begin with the absolute path of a program`, key)
		}
	}
	for _, name := range r.Certificates.Names {
		if name != "*" && !names.Host(strings.TrimPrefix(name, "*.")) {
			return Rules{}, wrong(`certificates.names has %q; write a name like "www.example.com", "*.example.com" for all below one, or "*" for all`, name)
		}
	}
	if r.Certificates.Authenticator == "webroot" && r.Certificates.Webroot == "" {
		return Rules{}, wrong(`certificates.authenticator is "webroot" and there is no certificates.webroot; add webroot = "/var/www/html"`)
	}
	for _, text := range []string{r.Certificates.Server, r.Certificates.Email} {
		if strings.HasPrefix(text, "-") {
			return Rules{}, wrong("%q would be taken for an option of certbot", text)
		}
	}
	return r, nil
}

// lacks is the refusal of what no rule allows.
func (r Rules) lacks(what, add string) error {
	return fmt.Errorf("%s is not allowed by %s: if it should be, add %s", what, r.file, add)
}

// mayAsk says whether the rules' user is the one with the number; root always may.
func (r Rules) mayAsk(uid int) error {
	if uid == 0 {
		return nil
	}
	u, err := user.Lookup(r.User)
	if err != nil {
		return fmt.Errorf("%s names the user %q: %w", r.file, r.User, err)
	}
	if u.Uid != strconv.Itoa(uid) {
		return fmt.Errorf("the user %d may not ask: %s names %q (%s)", uid, r.file, r.User, u.Uid)
	}
	return nil
}

// allowsUnit says whether the unit is one of those that a rule lists.
func allowsUnit(list []string, unit string) bool {
	return slices.ContainsFunc(list, func(one string) bool { return names.WholeUnit(one) == unit })
}

// allowsName says whether a certificate may have the name.
func (c Certificates) allowsName(name string) bool {
	return slices.ContainsFunc(c.Names, func(one string) bool {
		below, pattern := strings.CutPrefix(one, "*")
		return one == name || pattern && strings.HasSuffix(name, below)
	})
}

// ownUnit says whether a process is one of the unit's, which would end before the
// restart that it waits for.
func ownUnit(pid int, unit string) bool {
	cgroup, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	return err == nil && slices.Contains(strings.FieldsFunc(string(cgroup), func(r rune) bool { return r == '/' || r == '\n' }), unit)
}
