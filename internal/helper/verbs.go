package helper

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/process"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// task is an allowed call.
type task struct {
	// try says what run would do, and fails where it cannot.
	try func(ctx context.Context, out io.Writer) error
	run func(ctx context.Context, out io.Writer) error
}

// task checks a call by the rules.
func (r Rules) task(call Request, peer peer) (task, error) {
	switch args := call.Args; call.Verb {
	case names.VerbRestart:
		return r.unit(call, r.Restart, peer)
	case names.VerbReload:
		return r.unit(call, r.Reload, peer)
	case names.VerbStartPM2:
		if r.PM2.Unit == "" {
			return task{}, r.lacks(call.Verb, `[pm2] unit = "pm2-USER.service"`)
		}
		return systemctl("start", names.WholeUnit(r.PM2.Unit)), none(args)
	case names.VerbNginxTest, names.VerbNginxReload, names.VerbNginxErrors:
		if r.Nginx.Unit == "" && !r.Nginx.Signal {
			return task{}, r.lacks(call.Verb, `[nginx] unit = "nginx.service"`)
		}
		switch call.Verb {
		case names.VerbNginxTest:
			return r.Nginx.test(), none(args)
		case names.VerbNginxReload:
			if r.Nginx.Signal {
				return r.Nginx.signal(), none(args)
			}
			return systemctl("reload", names.WholeUnit(r.Nginx.Unit)), none(args)
		}
		return r.Nginx.errors(), none(args)
	case names.VerbCertificate, names.VerbCertificateInfo:
		return r.certificate(call)
	}
	return task{}, fmt.Errorf("there is no verb %q", call.Verb)
}

func none(args []string) error {
	if len(args) > 0 {
		return errors.New("it takes no arguments")
	}
	return nil
}

// program runs a program; what it says goes to out.
func program(ctx context.Context, out io.Writer, argv ...string) error {
	return process.Run(ctx, process.Command{Argv: argv, Dir: "/", Env: environment, Stdout: out})
}

// tryProgram says that a program would be run, if it is there.
func tryProgram(out io.Writer, argv ...string) error {
	if _, err := process.LookPath(argv[0], "/", nil, environment); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "would run %s\n", strings.Join(argv, " "))
	return err
}

// unit has systemd do something with a unit that is on a list.
func (r Rules) unit(call Request, list []string, peer peer) (task, error) {
	verb := call.Verb
	if len(call.Args) == 0 && call.Dry && len(list) > 0 {
		return task{try: func(context.Context, io.Writer) error { return nil }}, nil
	}
	if len(call.Args) != 1 || !names.Unit(call.Args[0]) {
		return task{}, fmt.Errorf("%s takes the name of one unit", verb)
	}
	unit := names.WholeUnit(call.Args[0])
	if !allowsUnit(list, unit) {
		return task{}, r.lacks(verb+" "+unit, fmt.Sprintf("%q to %s = [...]", unit, verb))
	}
	if verb == names.VerbRestart && ownUnit(peer.pid, unit) {
		return task{}, fmt.Errorf("%s is the unit of the deployer that asks, whose deploy would wait for its own end: the handler self restarts it", unit)
	}
	return systemctl(verb, unit), nil
}

func systemctl(verb, unit string) task {
	argv := []string{"systemctl", "--no-ask-password", verb, "--", unit}
	return task{
		try: func(ctx context.Context, out io.Writer) error {
			var state bytes.Buffer
			if err := program(ctx, &state, "systemctl", "show", "--property=LoadState", "--value", "--", unit); err != nil {
				return fmt.Errorf("%v: %s", err, bytes.TrimSpace(state.Bytes())) //nolint:errorlint // its exit code is not that of the verb
			}
			if s := strings.TrimSpace(state.String()); s != "loaded" {
				return fmt.Errorf("systemd says of the unit %s: %s", unit, s)
			}
			return tryProgram(out, argv...)
		},
		run: func(ctx context.Context, out io.Writer) error {
			if verb != "reload" {
				// Else a unit that failed again and again, or was restarted by some pushes
				// in a row, is not started. It fails where systemd does not know the unit yet.
				_ = program(ctx, nil, "systemctl", "reset-failed", "--", unit)
			}
			err := program(ctx, out, argv...)
			if err == nil && verb == names.VerbRestart {
				err = staysUp(ctx, unit)
			}
			if err != nil && ctx.Err() == nil {
				// Its exit code says how the unit is, which is seen. Of one that systemd has started
				// again it has only the lines since then.
				_ = program(ctx, out, "systemctl", "status", "--no-pager", "--full", "--lines=0", "--", unit)
				_ = program(ctx, out, "journalctl", "--no-pager", "--quiet", "--lines=20", "--unit="+unit)
			}
			return err
		},
	}
}

const (
	// upFor is how long a unit must stay up that was restarted.
	upFor   = 2 * time.Second
	upPause = 200 * time.Millisecond
)

// staysUp looks at a unit that systemd has restarted: to systemd one of Type=simple, which
// is what a unit is that does not say, has started as soon as it has a process.
func staysUp(ctx context.Context, unit string) error {
	for begin := time.Now(); ; {
		var said bytes.Buffer
		if err := program(ctx, &said, "systemctl", "show", "--property=Result,NRestarts", "--", unit); err != nil {
			return fmt.Errorf("see how %s is: %w", unit, err)
		}
		for line := range strings.Lines(said.String()) {
			switch key, value, _ := strings.Cut(strings.TrimSpace(line), "="); {
			case key == "Result" && value != "success":
				return fmt.Errorf("%s was restarted, and has failed: %s", unit, value)
			case key == "NRestarts" && value != "0":
				return fmt.Errorf("%s was restarted, and has ended: systemd starts it again and again", unit)
			}
		}
		if time.Since(begin) > upFor || !retry.Sleep(ctx, upPause) {
			return nil
		}
	}
}

// test has nginx read its configuration, and tells which files that is.
func (n Nginx) test() task {
	argv := append(slices.Clone(n.Command), "-T")
	return task{
		try: func(_ context.Context, out io.Writer) error { return tryProgram(out, argv...) },
		run: func(ctx context.Context, out io.Writer) error {
			files := &linesWith{out: out, prefix: "# configuration file "}
			return process.Run(ctx, process.Command{Argv: argv, Dir: "/", Env: environment, Stdout: files, Stderr: out})
		},
	}
}

// linesWith lets the lines with a prefix through: a configuration may hold secrets.
type linesWith struct {
	out    io.Writer
	prefix string
	line   []byte
}

func (l *linesWith) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		if len(l.line) < piece { // a longer line is none of those
			l.line = append(l.line, line...)
		}
		if !bytes.HasSuffix(line, []byte("\n")) {
			continue
		}
		if bytes.HasPrefix(l.line, []byte(l.prefix)) {
			if _, err := l.out.Write(l.line); err != nil {
				return 0, err
			}
		}
		l.line = l.line[:0]
	}
	return len(p), nil
}

var trouble = regexp.MustCompile(`\[(emerg|alert|crit)\]`)

// errors shows what nginx's error log says of trouble.
func (n Nginx) errors() task {
	show := func(_ context.Context, out io.Writer) error {
		log, err := endOf(n.ErrorLog, nil)
		if err != nil {
			return err
		}
		return writeLast(out, log, 20, trouble)
	}
	return task{try: show, run: show}
}

// writeLast writes the last lines that match.
func writeLast(out io.Writer, text []byte, most int, match *regexp.Regexp) error {
	lines := slices.DeleteFunc(bytes.SplitAfter(text, []byte("\n")), func(line []byte) bool { return !match.Match(line) })
	_, err := out.Write(bytes.Join(lines[max(0, len(lines)-most):], nil))
	return err
}

// maxLog bounds what is looked at of a log, in bytes.
const maxLog = 256 << 10

// endOf is the end of a log; of one that is not there, nothing. Where since is that log as
// it was, only what has been written since.
func endOf(path string, since fs.FileInfo) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	from := max(0, info.Size()-maxLog)
	if since != nil && os.SameFile(since, info) && since.Size() <= info.Size() {
		from = max(from, since.Size())
	}
	return io.ReadAll(io.NewSectionReader(f, from, maxLog))
}

// maxNames is how many names a certificate of Let's Encrypt may have.
const maxNames = 100

func (r Rules) certificate(call Request) (task, error) {
	c, args := r.Certificates, call.Args
	switch {
	case len(c.Names) == 0:
		return task{}, r.lacks(call.Verb, `[certificates] names = ["..."]`)
	case len(args) == 0 && call.Dry:
		return task{try: func(_ context.Context, out io.Writer) error { return tryProgram(out, c.Command...) }}, nil
	case call.Verb == names.VerbCertificateInfo && len(args) != 1:
		return task{}, fmt.Errorf("%s takes the name of one site", call.Verb)
	case call.Verb == names.VerbCertificate && len(args) < 2:
		return task{}, fmt.Errorf("%s takes a site and the names for its certificate", call.Verb)
	case len(args) > 1+maxNames:
		return task{}, fmt.Errorf("a certificate has at most %d names, not %d", maxNames, len(args)-1)
	}
	for _, name := range args {
		if !names.Host(name) {
			return task{}, fmt.Errorf("%q is not the name of a host, in lower case and without a wildcard", name)
		}
		if !c.allowsName(name) {
			return task{}, r.lacks("a certificate for "+name, fmt.Sprintf("%q to [certificates] names", name))
		}
	}
	if call.Verb == names.VerbCertificateInfo {
		return c.info(args[0]), nil
	}
	return r.obtain(args[0], args[1:]), nil
}

func (c Certificates) info(site string) task {
	show := func(_ context.Context, out io.Writer) error {
		// certbot's own link leads to the file.
		text, err := os.ReadFile(filepath.Join(c.Live, site, "fullchain.pem"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == "CERTIFICATE" { // never a key
				if err := pem.Encode(out, block); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return task{try: show, run: show}
}

const (
	// lockPatience is how long another certbot is waited for: the timer's, for example.
	lockPatience = 2 * time.Minute
	lockPause    = 2 * time.Second
)

var certbotIsBusy = []byte("Another instance of Certbot is already running")

// obtain runs certbot; the options are fixed, for some of its options run programs.
func (r Rules) obtain(site string, hosts []string) task {
	c := r.Certificates
	argv := append(slices.Clone(c.Command), "certonly", "--non-interactive", "--agree-tos", "--renew-with-new-domains")
	if c.Email == "" {
		argv = append(argv, "--register-unsafely-without-email")
	} else {
		argv = append(argv, "-m", c.Email)
	}
	if c.Server != "" {
		argv = append(argv, "--server", c.Server)
	}
	if c.Authenticator == "webroot" {
		argv = append(argv, "--webroot", "-w", c.Webroot)
	} else {
		argv = append(argv, "--nginx")
	}
	argv = append(argv, "--cert-name", site)
	for _, name := range hosts {
		argv = append(argv, "-d", name)
	}
	return task{
		try: func(_ context.Context, out io.Writer) error { return tryProgram(out, argv...) },
		run: func(ctx context.Context, out io.Writer) error {
			if c.Authenticator == "nginx" && r.Nginx.Unit != "" {
				// certbot would start its own nginx, outside of systemd.
				if err := program(ctx, nil, "systemctl", "is-active", "--quiet", "--", names.WholeUnit(r.Nginx.Unit)); err != nil {
					return fmt.Errorf("%s does not run: start it first", names.WholeUnit(r.Nginx.Unit))
				}
			}
			for begin := time.Now(); ; {
				// Debian's certbot goes on with the log of the runs before, whose answers are not this one's.
				before, _ := os.Stat(c.Log) // nil where there is none
				var said bytes.Buffer
				err := program(ctx, io.MultiWriter(out, &said), argv...)
				if err == nil {
					return nil
				}
				if !bytes.Contains(said.Bytes(), certbotIsBusy) {
					// What it prints hides the CA's answer: Debian's certbot 2.1 has an AttributeError.
					log, logErr := endOf(c.Log, before)
					if logErr == nil {
						logErr = writeLast(out, log, 12, caAnswer)
					}
					return errors.Join(err, logErr)
				}
				if time.Since(begin) > lockPatience || !retry.Sleep(ctx, lockPause) {
					return err
				}
			}
		},
	}
}

// caAnswer matches the lines of certbot's log that say what the CA has answered.
var caAnswer = regexp.MustCompile(`urn:ietf:params:acme:error:|^HTTP [45][0-9][0-9]|^Retry-After: |"detail":|[Ee]rror: `)
