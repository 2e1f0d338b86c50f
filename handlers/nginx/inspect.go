package nginx

import (
	"bytes"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/nginxconf"
)

// rules are what site files may say. nginx reads them as root, so what they may make
// it write, load or run is what anyone who can push could have root do.
type rules struct {
	// allowed are directives that are taken as they are.
	allowed []string
	// includePaths and logPaths are directories that files may be included from, and
	// logs be written to.
	includePaths, logPaths []string
	// prefix is the directory that relative includes start from: that of nginx.conf.
	prefix string
}

var (
	bareName = regexp.MustCompile(`\A[a-z0-9_]+\z`)
	// refusedNames load code into nginx, run programs, or write files where they say.
	refusedNames = regexp.MustCompile(`\A(load_module|perl.*|js_.*|.*_by_lua.*|lua_.*|passenger_.*|wasm_.*|modsecurity.*|opentracing_load_tracer|` +
		`ssl_engine|user|pid|lock_file|working_directory|google_perftools_profiles|exec.*|` +
		`.*_temp_path|.*_cache_path|.*_store|.*_key_log|dav_methods|state)\z`)
	// keyNames may name a key that OpenSSL loads code for.
	keyNames = regexp.MustCompile(`\A(.*_)?ssl_certificate(_key)?\z`)
	// dataBlocks hold keys and values, of which only include is a directive.
	dataBlocks = []string{"map", "geo", "types", "split_clients", "charset_map"}
)

// refused says why a file must not be given to nginx, or "".
func (r rules) refused(list []nginxconf.Directive) (line int, why string) {
	for _, d := range list {
		if why := r.refusedDirective(d); why != "" {
			return d.Line, why
		}
	}
	return 0, ""
}

func (r rules) refusedDirective(d nginxconf.Directive) string {
	name := d.Words[0]
	if slices.Contains(dataBlocks, d.Parent()) {
		switch {
		case d.Block:
			return fmt.Sprintf("a block inside of %s", d.Parent())
		case name.Text == "include":
			return r.refusedInclude(d)
		}
		return ""
	}
	switch {
	case !name.Bare || !bareName.MatchString(name.Text):
		return fmt.Sprintf("%q is no plain name of a directive", name.Text)
	case slices.Contains(r.allowed, name.Text):
		return ""
	case refusedNames.MatchString(name.Text):
		return fmt.Sprintf("%s is refused, because it can make nginx load code or write files; allow_directives can allow it", name.Text)
	case name.Text == "include":
		return r.refusedInclude(d)
	case name.Text == "access_log" || name.Text == "error_log":
		return r.refusedLog(d)
	case name.Text == "listen":
		return r.refusedSocket(d)
	case keyNames.MatchString(name.Text):
		for _, w := range d.Words[1:] {
			if scheme, _, has := strings.Cut(w.Text, ":"); has && (scheme == "engine" || scheme == "store") {
				return fmt.Sprintf("%s %s: is refused, because OpenSSL would load code for it", name.Text, scheme)
			}
		}
	}
	return ""
}

func (r rules) refusedLog(d nginxconf.Directive) string {
	if len(d.Words) < 2 { // nginx refuses it
		return ""
	}
	to := d.Words[1].Text
	if to == "off" || to == "stderr" || strings.HasPrefix(to, "syslog:") || strings.HasPrefix(to, "memory:") {
		return ""
	}
	if strings.Contains(to, "$") || !inside(to, r.logPaths) {
		return fmt.Sprintf("%s %q is refused: nginx opens it as root; logs go below %s (log_paths)", d.Name(), to, strings.Join(r.logPaths, ", "))
	}
	return ""
}

// refusedSocket refuses sockets but in a directory of somebody's below /run: root makes
// the file, and the name of some says something, as /run/nologin does.
func (r rules) refusedSocket(d nginxconf.Directive) string {
	const scheme = "unix:"
	if len(d.Words) < 2 || len(d.Words[1].Text) < len(scheme) || !strings.EqualFold(d.Words[1].Text[:len(scheme)], scheme) {
		return ""
	}
	file := strings.TrimPrefix(d.Words[1].Text[len(scheme):], "/var")
	if dir := path.Dir(path.Clean(file)); dir == "/run" || !inside(file, []string{"/run/"}) {
		return fmt.Sprintf("listen %q is refused: nginx makes the socket as root; sockets go into a directory below /run", d.Words[1].Text)
	}
	return ""
}

func (r rules) refusedInclude(d nginxconf.Directive) string {
	for _, w := range d.Words[1:] {
		// A pattern may hide a "..": written with backslashes, or as ".?".
		file := strings.ReplaceAll(w.Text, `\`, "")
		if !path.IsAbs(file) {
			file = r.prefix + "/" + file
		}
		if !inside(file, r.includePaths) || hiddenPattern(file) {
			return fmt.Sprintf("include %q is refused: what is included lies below %s (include_paths)", w.Text, strings.Join(r.includePaths, ", "))
		}
	}
	return ""
}

func hiddenPattern(file string) bool {
	for element := range strings.SplitSeq(file, "/") {
		if strings.HasPrefix(element, ".") && strings.ContainsAny(element, "*?[") {
			return true
		}
	}
	return false
}

// inside says whether a path lies below one of these directories, with no way up in it.
func inside(file string, dirs []string) bool {
	if !path.IsAbs(file) || slices.Contains(strings.Split(file, "/"), "..") {
		return false
	}
	file = path.Clean(file)
	return slices.ContainsFunc(dirs, func(dir string) bool {
		return strings.HasPrefix(file, strings.TrimSuffix(path.Clean(dir), "/")+"/")
	})
}

// maxNames is how many names Let's Encrypt puts into a certificate.
const maxNames = 100

// serverNames are the names of all servers of a file that a certificate can be asked
// for over HTTP, and the others.
func serverNames(list []nginxconf.Directive) (names, others []string) {
	for _, d := range list {
		if d.Name() != "server_name" || d.Parent() != "server" {
			continue
		}
		for _, w := range d.Words[1:] {
			if name := strings.ToLower(w.Text); certifiable(name) {
				names = append(names, name)
			} else {
				others = append(others, w.Text)
			}
		}
	}
	return unique(names), unique(others)
}

func unique(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// certifiable leaves out wildcards, regular expressions, "_", "", ".example.com",
// variables, addresses, and names without a dot.
func certifiable(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil {
		return false
	}
	return names.Host(name)
}

// mentions says whether a word of the file is a path below dir.
func mentions(list []nginxconf.Directive, dir string) bool {
	for _, d := range list {
		for _, w := range d.Words[1:] {
			if strings.HasPrefix(w.Text, dir+"/") {
				return true
			}
		}
	}
	return false
}

// inspected is what a file of the wanted set says.
type inspected struct {
	names, others []string
	// certificate says that it needs that of its site.
	certificate bool
}

// inspect reads a file. live is the directory of the certificates.
func (r rules) inspect(f file, live string) (inspected, error) {
	if i := bytes.IndexByte(f.text, 0); i >= 0 {
		return inspected{}, fmt.Errorf("%s:%d: a NUL byte: nginx would not read on", f.path, 1+bytes.Count(f.text[:i], []byte("\n")))
	}
	list, err := nginxconf.Parse(f.text)
	// What stands before the error counts, too: nginx has acted on it by then.
	if line, why := r.refused(list); why != "" {
		return inspected{}, fmt.Errorf("%s:%d: %s", f.path, line, why)
	}
	name := parseName(f.name)
	if err != nil {
		if f.kind == sites && !name.enabled {
			return inspected{}, nil // nginx does not read it
		}
		return inspected{}, fmt.Errorf("%s:%d: %w", f.path, err.Line, err)
	}
	var found inspected
	if f.kind == sites && name.enabled && name.site != "" {
		found.certificate = mentions(list, live+"/"+name.site)
		found.names, found.others = serverNames(list)
	}
	return found, nil
}
