// Package git keeps a deployment's working tree at the commit that it is told.
//
// Whatever comes from a payload reaches git as a full ref or a full hash and
// nothing else, and after --end-of-options where git 2.39 knows it (checkout
// does not: there it is a hash, followed by --). No hook, file system monitor,
// submodule or ext:: remote runs. The remote's URL, which may hold a password,
// is given in the environment and never in argv, and is masked in all output.
package git

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/mask"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/process"
)

// remotePrefix begins the name under which git finds the URL. Nobody can guess the rest, so
// that no configuration file has another URL, or a program, for it.
const remotePrefix = "durhack-deployer-"

// alternateRefs is what git does by itself. Given as a program, that of a configuration
// file is not run; the text is this one, whatever anyone pushes.
const alternateRefs = `refs() { git --git-dir="$1" for-each-ref --format="%(objectname)"; }; refs`

// Options are the lesser choices of Open; the zero value will do.
type Options struct {
	// Vars is the environment to begin with; nil is the caller's own.
	Vars []string
	// SearchPaths are looked at for git before the PATH of Vars.
	SearchPaths []string
	// Grace is the time between TERM and KILL; zero is process.DefaultGrace.
	Grace time.Duration
	// Submodules says that a checkout includes them, Tags that a fetch does.
	Submodules, Tags bool
	// Store is a directory in which the objects of a remote are kept for all working
	// trees of it; empty keeps them in each. A clone that is there already stays as it is.
	Store string
	// Blobless says that a new clone has the files of commits only once they are
	// checked out. It borrows nothing.
	Blobless bool
	// Key is the private key that ssh alone may use, and KnownHosts what it knows remotes
	// by: paths that need no quotes. Without a Key, ssh goes by its own configuration.
	Key, KnownHosts string
	// Nice is added to git's niceness.
	Nice int
	// As is with whose rights git runs, and everything in the working tree is read and written.
	As process.As
	// Base is the directory that is given to the user of As where it is missing; empty is the
	// working tree.
	Base string
	// Group is the control group that git starts in; nil is ours.
	Group *os.File
	// ProcessFile names the running git for process.KillOrphan; may be empty.
	ProcessFile string
}

// Repo is the working tree in one directory and the remote that it follows.
// Methods that change something take a lock on the directory, so that they
// exclude each other, also across processes; a Repo is safe for concurrent use.
type Repo struct {
	dir, remote string
	name        string // of the remote, see remotePrefix
	heads       string // where the branches of the remote stand here
	opts        Options
	secrets     *mask.Set
	// vars, stdin and config are for single commands, see forget and contact.
	vars   []string
	stdin  *os.File
	config [][2]string

	patience time.Duration // see Patient
	tell     func(why string)
}

// Open names a working tree and its remote (https, ssh, file or a path). It does
// nothing yet.
func Open(dir, remote string, opts Options) *Repo {
	if opts.Vars == nil {
		opts.Vars = os.Environ()
	}
	if opts.Blobless {
		opts.Store = ""
	}
	return &Repo{dir: dir, remote: remote, name: remotePrefix + rand.Text(), heads: headsOfTree, opts: opts, secrets: mask.NewSet(mask.Credentials(remote))}
}

// Dir is the working tree.
func (r *Repo) Dir() string { return r.dir }

// publicRemote is the remote without what is secret of it.
func (r *Repo) publicRemote() string { return mask.WithoutCredentials(r.remote) }

func checkHash(s string) error {
	if !names.Commit(s) {
		return fmt.Errorf("%q is not a full commit hash", s)
	}
	return nil
}

func checkBranch(name string) error {
	if !names.Branch(name) {
		return fmt.Errorf("%q is not a branch name that git accepts", name)
	}
	return nil
}

// Error says that git did not succeed.
type Error struct {
	// Command is git's subcommand.
	Command string
	// Message is the end of what git printed on standard error, in one line,
	// secrets masked.
	Message string
	// Err is the error of the process runner.
	Err error
	// lasting says that a remote would give the same answer again.
	lasting bool
}

func (e *Error) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("git %s: %v", e.Command, e.Err)
	}
	return fmt.Sprintf("git %s: %v: %s", e.Command, e.Err, e.Message)
}

// Unwrap returns the error of the process runner.
func (e *Error) Unwrap() error { return e.Err }

// exitCode is the code of a git that exited by itself, or -1.
func exitCode(err error) int {
	if exit, ok := errors.AsType[*process.ExitError](err); ok {
		return exit.Code
	}
	return -1
}

// run runs git in dir. stdout and out, which gets what is meant for people, may be nil.
func (r *Repo) run(ctx context.Context, dir string, stdout, out io.Writer, args ...string) error {
	if r.remote == "" || strings.HasPrefix(r.remote, "-") {
		return fmt.Errorf("git %s: %q is not a remote", args[0], r.remote)
	}
	if out == nil {
		out = io.Discard
	}
	last := &lastBytes{}
	masked := mask.NewWriter(io.MultiWriter(last, out), r.secrets)
	var stderr io.Writer = masked
	if stdout == nil { // one pipe for both: two would be written from at once
		stdout, stderr = masked, nil
	}
	err := process.Run(ctx, process.Command{
		Argv: append([]string{"git"}, args...), Dir: dir, Env: r.environment(),
		SearchPaths: r.opts.SearchPaths, Grace: r.opts.Grace, Nice: r.opts.Nice, As: r.opts.As, Group: r.opts.Group, File: r.opts.ProcessFile,
		Stdin: r.stdin, Stdout: stdout, Stderr: stderr,
	})
	_ = masked.Flush()
	if err == nil {
		return nil
	}
	e := &Error{Command: args[0], Message: last.message(), Err: err, lasting: lasting.Match(last.b)}
	if tooOld.MatchString(e.Message) {
		e.Message, e.lasting = "this git is too old, install 2.39 or newer: "+e.Message, true
	}
	if changed := hostChanged(last.b); changed != "" {
		e.Message = changed
	}
	return e
}

// output runs git and returns its standard output without the last newline.
func (r *Repo) output(ctx context.Context, dir string, args ...string) (string, error) {
	var b limitedBuffer
	if err := r.run(ctx, dir, &b, nil, args...); err != nil {
		return "", err
	}
	if b.full {
		return "", fmt.Errorf("git %s: more than %d bytes of output", args[0], maxOutput)
	}
	return strings.TrimSuffix(string(b.b), "\n"), nil
}

// tooOld is how a git speaks that does not know an option, or the variables that have the remote.
var tooOld = regexp.MustCompile("unknown option .*end-of-options|'" + remotePrefix + "[A-Z2-7]+' does not appear to be a git repository")

// lend lets submodules and LFS, which know the remote without its credentials, use
// them at the same host.
func (r *Repo) lend() [][2]string {
	var config [][2]string
	scheme, rest, isURL := strings.Cut(r.remote, "://")
	authority, _, _ := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(authority, '@'); at >= 0 && (scheme == "https" || scheme == "http") {
		config = append(config, [2]string{"url." + scheme + "://" + authority + "/.insteadOf", scheme + "://" + authority[at+1:] + "/"})
	}
	if r.opts.Submodules {
		// They belong to whom the working tree belongs to.
		config = append(config, [2]string{"safe.directory", "*"})
		// git takes a submodule from this machine only where it is told to.
		if !isURL && filepath.IsAbs(r.remote) || scheme == "file" {
			config = append(config, [2]string{"protocol.file.allow", "always"})
		}
	}
	return config
}

func (r *Repo) environment() []string {
	config := slices.Concat([][2]string{
		{"remote." + r.name + ".url", r.remote},
		{"core.alternateRefsCommand", alternateRefs},
		{"core.askPass", ""},
		{"safe.directory", r.dir},
		{"core.hooksPath", "/dev/null"},
		{"core.fsmonitor", "false"},
		{"protocol.ext.allow", "never"},
		{"submodule.recurse", "false"},
		{"fetch.recurseSubmodules", "false"},
		// A pack appears whole or not at all; loose objects would appear one by
		// one, and after a kill a commit could be there without its files.
		{"fetch.unpackLimit", "1"},
		// Nothing is tidied up while a push waits for it: see Tidy.
		{"gc.auto", "0"},
		{"maintenance.auto", "false"},
		{"advice.detachedHead", "false"},
		{"advice.graftFileDeprecated", "false"}, // see GIT_GRAFT_FILE below
		// The whole commit, and each file as it is now.
		{"core.sparseCheckout", "false"},
		{"core.ignoreStat", "false"},
		{"core.trustctime", "true"},
		{"core.checkStat", "default"},
		// One file, which is replaced as a whole.
		{"core.splitIndex", "false"},
	}, r.config, r.lend())
	if r.isPartial() { // what a partial clone lacks comes from us, too, with our credentials
		config = append(config, [2]string{"remote." + r.name + ".promisor", "true"}, [2]string{"remote." + r.name + ".partialCloneFilter", "blob:none"})
	}
	// git compares the real path.
	if real, err := filepath.EvalSymlinks(r.dir); err == nil && real != r.dir {
		config = append(config, [2]string{"safe.directory", real})
	}
	vars := append([]string{"GIT_PROXY_COMMAND="}, r.opts.Vars...) // takes the place of core.gitProxy
	given := 0                                                     // by the person who configured the variables of git's configuration
	for _, kv := range vars {
		if count, ok := strings.CutPrefix(kv, "GIT_CONFIG_COUNT="); ok {
			n, _ := strconv.Atoi(count)
			given = max(0, n)
		}
	}
	vars = append(vars, "LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0",
		// A history that somebody has put in the place of the real one does not count.
		"GIT_NO_REPLACE_OBJECTS=1", "GIT_GRAFT_FILE=/dev/null/none",
		"GIT_CEILING_DIRECTORIES="+filepath.Dir(filepath.Clean(r.dir)),
		"GIT_CONFIG_COUNT="+strconv.Itoa(given+len(config)))
	if r.opts.Key != "" {
		hosts := "-o UserKnownHostsFile=" + r.opts.KnownHosts
		if r.opts.As.User != nil { // who may not write to ours: new ones go to the user's own
			hosts = "-o 'GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts " + r.opts.KnownHosts + "'"
		}
		vars = append(vars, "GIT_SSH_VARIANT=ssh", "GIT_SSH_COMMAND=ssh -i "+r.opts.Key+" -o IdentitiesOnly=yes -o BatchMode=yes "+hosts+" -o StrictHostKeyChecking=accept-new")
	}
	for i, kv := range config {
		n := strconv.Itoa(given + i)
		vars = append(vars, "GIT_CONFIG_KEY_"+n+"="+kv[0], "GIT_CONFIG_VALUE_"+n+"="+kv[1])
	}
	return append(vars, r.vars...)
}
