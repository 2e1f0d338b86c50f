package localpg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// owner is the OS user that the cluster runs as and that its files belong to.
type owner struct {
	uid, gid int
	name     string
	// other says that it is not the calling user, so that programs must be
	// started with its identity and files given to it.
	other bool
}

// credential is what a program of the cluster is started with; nil means as is.
func (o owner) credential() *syscall.Credential {
	if !o.other {
		return nil
	}
	return &syscall.Credential{Uid: uint32(o.uid), Gid: uint32(o.gid)}
}

// chooseOwner decides who runs the cluster in dir. See Config.Dir.
func chooseOwner(ctx context.Context, dir string) (owner, error) {
	euid := os.Geteuid()
	dirUID, err := ownerOf(dir)
	exists := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return owner{}, err
	}
	if euid != 0 {
		if exists && dirUID != euid {
			return owner{}, fmt.Errorf("the directory belongs to %s: run this as that user or as root", userName(dirUID))
		}
		return lookupOwner(strconv.Itoa(euid), false)
	}
	if exists && dirUID != 0 {
		return lookupOwner(strconv.Itoa(dirUID), true)
	}
	for parent := filepath.Dir(dir); ; parent = filepath.Dir(parent) {
		uid, err := ownerOf(parent)
		if errors.Is(err, fs.ErrNotExist) && parent != filepath.Dir(parent) {
			continue // it will be made; the nearest that exists decides
		}
		if err != nil {
			return owner{}, err
		}
		if uid != 0 {
			return lookupOwner(strconv.Itoa(uid), true)
		}
		break
	}
	// Not nobody: everything else that runs as nobody could enter the cluster.
	for _, name := range []string{"postgres", ownUser} {
		if o, err := ownerNamed(name); err == nil {
			return o, nil
		}
	}
	addErr := addUser(ctx)
	o, err := ownerNamed(ownUser)
	if err == nil {
		return o, nil // also where another process was faster
	}
	return owner{}, fmt.Errorf("Postgres refuses to run as root, and there is no user postgres to run it as, nor can one be added (%w): "+
		"give the directory to an ordinary user (chown), or set DATABASE_URL", cmp.Or(addErr, err))
}

// ownUser is added to the system where root runs a cluster and there is nobody
// to run it as.
const ownUser = "durhack-postgres"

func addUser(ctx context.Context) error {
	cmd, out := sessionCommand(ctx, "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
		"--shell", "/usr/sbin/nologin", "--comment", "the private Postgres of durhack-deployer", ownUser)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("useradd: %w: %s", err, strings.TrimSpace(out.String()))
	}
	return nil
}

func ownerNamed(name string) (owner, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return owner{}, err
	}
	if u.Uid == "0" {
		return owner{}, fmt.Errorf("%s is root", name)
	}
	return lookupOwner(u.Uid, true)
}

// lookupOwner needs the user to have a name: initdb refuses one without, and
// peer authentication compares names.
func lookupOwner(uid string, other bool) (owner, error) {
	u, err := user.LookupId(uid)
	if err != nil {
		return owner{}, fmt.Errorf("find the name of the user to run Postgres as (it needs one in /etc/passwd; otherwise set DATABASE_URL): %w", err)
	}
	uidN, err := strconv.Atoi(u.Uid)
	if err != nil {
		return owner{}, fmt.Errorf("read the ID of user %s: %w", u.Username, err)
	}
	gidN, err := strconv.Atoi(u.Gid)
	if err != nil {
		return owner{}, fmt.Errorf("read the group of user %s: %w", u.Username, err)
	}
	return owner{uid: uidN, gid: gidN, name: u.Username, other: other}, nil
}

func ownerOf(path string) (uid int, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return int(st.Uid), nil
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return "user " + strconv.Itoa(uid)
}

// BlockedError says that the user that the cluster runs as cannot reach a
// directory that it needs.
type BlockedError struct {
	User   string // the OS user
	Path   string // what it must reach
	Parent string // the directory that is in the way
}

// Error names the directory and what to do about it.
func (e *BlockedError) Error() string {
	return fmt.Sprintf("user %s, which Postgres runs as, cannot enter %s on the way to %s: "+
		"allow it (chmod o+x %[2]s), choose another state directory, or set DATABASE_URL", e.User, e.Parent, e.Path)
}

// checkReach looks for a directory on the way to path that the owner may not
// enter. It reads the mode bits, as the caller may be root, who may enter all.
func (o owner) checkReach(path string) error {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	for dir := resolved; ; dir = filepath.Dir(dir) {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return &fs.PathError{Op: "stat", Path: dir, Err: err}
		}
		bit := uint32(0o001)
		switch {
		case int(st.Uid) == o.uid:
			bit = 0o100
		case int(st.Gid) == o.gid:
			bit = 0o010
		}
		if st.Mode&bit == 0 {
			return &BlockedError{User: o.name, Path: path, Parent: dir}
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}
