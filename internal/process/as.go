package process

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// User is who programs run as.
type User struct {
	Name        string
	UID, GID    uint32
	Groups      []uint32 // beside GID
	Home, Shell string
}

// nobody has no file and no group.
const nobody = 65534

// As says with whose rights, and with which umask, programs run and files are read and
// written. The zero value leaves both as they are.
type As struct {
	User  *User // nil is our own
	Umask int   // 0 is our own
}

// NotRootError says that a program cannot be run as another user.
type NotRootError struct{ Wanted, Own string }

func (e *NotRootError) Error() string {
	return fmt.Sprintf("only root can run programs as %s, and this is %s", e.Wanted, e.Own)
}

// AsUser is As for the user of a name, which may be our own; "" is. With an error come
// the rights of nobody where we are root, and else our own.
func AsUser(name string, umask int) (As, error) {
	as := As{Umask: umask}
	if name == "" {
		return as, nil
	}
	own := os.Geteuid()
	u, err := lookup(name)
	switch {
	case err == nil && int(u.UID) == own:
		return as, nil
	case own != 0:
		if err == nil {
			err = &NotRootError{Wanted: name, Own: NameOf(own)}
		}
		return as, err
	case err != nil:
		u = &User{Name: "nobody", UID: nobody, GID: nobody, Home: "/", Shell: fallbackShell}
	}
	as.User = u
	return as, err
}

// NameOf is the name of the user with a number, or the number where it has none.
func NameOf(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return strconv.Itoa(uid)
}

func lookup(name string) (*User, error) {
	found, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("look for the user %s: %w", name, err)
	}
	ids, err := found.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("look for the groups of the user %s: %w", name, err)
	}
	u := &User{Name: found.Username, Home: found.HomeDir, Shell: shellOf(found.Username)}
	for _, into := range []struct {
		text string
		id   *uint32
	}{{found.Uid, &u.UID}, {found.Gid, &u.GID}} {
		if *into.id, err = number(into.text); err != nil {
			return nil, fmt.Errorf("look for the user %s: %w", name, err)
		}
	}
	for _, text := range ids {
		id, err := number(text)
		if err != nil {
			return nil, fmt.Errorf("look for the groups of the user %s: %w", name, err)
		}
		if id != u.GID {
			u.Groups = append(u.Groups, id)
		}
	}
	return u, nil
}

func number(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err
}

const fallbackShell = "/bin/sh"

// shellOf is the shell of a user, which os/user does not tell, or one that works where
// that is a program which only refuses.
func shellOf(name string) string {
	passwd, err := os.Open("/etc/passwd")
	if err != nil {
		return fallbackShell
	}
	defer func() { _ = passwd.Close() }()
	for lines := bufio.NewScanner(passwd); lines.Scan(); {
		field := strings.Split(lines.Text(), ":")
		if len(field) != 7 || field[0] != name {
			continue
		}
		if shell := field[6]; strings.HasPrefix(shell, "/") && !strings.HasSuffix(shell, "/nologin") && !strings.HasSuffix(shell, "/false") {
			return shell
		}
	}
	return fallbackShell
}

// Variables are those of the environment that tell a program who runs it.
func (u *User) Variables() []string {
	return []string{"HOME=" + u.Home, "USER=" + u.Name, "LOGNAME=" + u.Name, "SHELL=" + u.Shell}
}

// credential is what a program starts with; nil is ours.
func (a As) credential() *syscall.Credential {
	if a.User == nil {
		return nil
	}
	return &syscall.Credential{Uid: a.User.UID, Gid: a.User.GID, Groups: a.User.Groups}
}

// Enter gives the calling goroutine, and no other, these rights for what it does with
// files, until it calls leave: `defer as.Enter()()`. So no link that the user has made
// leads to what is not the user's to read or write.
//
// The rights are those of the thread that the goroutine is locked to. Only the IDs for
// files change (setfsuid(2)): with the others, the user could send the whole process
// signals by way of this thread. Run does not inherit them: see Command.As. Where the
// kernel refuses, nothing may go on as root, so this panics; whoever was root when As was
// made can do it.
func (a As) Enter() (leave func()) {
	if a == (As{}) {
		return func() {}
	}
	runtime.LockOSThread()
	before := rights{}
	if a.Umask != 0 {
		before.umask = new(setUmask(a.Umask))
	}
	if a.User != nil {
		before.files = &files{uid: fsID(unix.SYS_SETFSUID, -1), gid: fsID(unix.SYS_SETFSGID, -1), groups: threadGroups()}
		files{a.User.UID, a.User.GID, a.User.Groups}.use()
	}
	return func() {
		if before.files != nil {
			before.files.use()
		}
		if before.umask != nil {
			setUmask(*before.umask)
		}
		runtime.UnlockOSThread()
	}
}

// Provide makes a directory User's, where it is missing, or root's and empty. What User
// may not make there, root makes, if nobody else can change what is on the way to it: so
// no link is followed that somebody puts there meanwhile.
func (a As) Provide(dir string) error {
	if a.User == nil {
		return nil
	}
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err = a.mkdirAll(dir); !errors.Is(err, fs.ErrPermission) {
			return err
		}
	case err != nil:
		return err
	case !info.IsDir() || ownerOf(info) == a.User.UID: // whoever uses it sees what else it is
		return nil
	default:
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 || ownerOf(info) != 0 {
			return fmt.Errorf("%s belongs to %s, and programs run there as %s: run `chown -R -h %s:%d %[1]s` as root", dir, NameOf(int(ownerOf(info))), a.User.Name, a.User.Name, a.User.GID)
		}
	}
	if !onlyRoots(filepath.Dir(dir)) {
		return fmt.Errorf("%s may not make %s, and root does not where others can put links: look what is on the way to it, and run `install -d -o %s -g %d %s` as root",
			a.User.Name, dir, a.User.Name, a.User.GID, dir)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // as for our own user
		return err
	}
	if err := os.Mkdir(dir, 0o755&^fs.FileMode(a.Umask)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Lchown(dir, int(a.User.UID), int(a.User.GID))
}

// May says whether a file may be used so (unix.R_OK, W_OK, X_OK) with these rights.
func (a As) May(path string, use uint32) bool {
	defer a.Enter()()
	return unix.Faccessat(unix.AT_FDCWD, path, use, unix.AT_EACCESS) == nil
}

func (a As) mkdirAll(dir string) error {
	defer a.Enter()()
	return os.MkdirAll(dir, 0o755) //nolint:gosec // as for our own user
}

// onlyRoots says whether nobody but root can change what a path leads to, as far as it is there.
func onlyRoots(path string) bool {
	for below := false; ; path = filepath.Dir(path) {
		info, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil || !info.IsDir() || ownerOf(info) != 0:
			return false
		case info.Mode().Perm()&0o022 != 0 && !(below && info.Mode()&fs.ModeSticky != 0): // as /tmp, where root's stays root's
			return false
		case path == "/":
			return true
		}
		below = true
	}
}

func ownerOf(info fs.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }

// Outside calls f with the rights of the whole process, whatever the caller has entered.
func Outside(f func() error) error {
	result := make(chan error, 1)
	go func() { result <- f() }()
	return <-result
}

// rights are a thread's; nil is what was not changed.
type rights struct {
	umask *int
	files *files
}

type files struct {
	uid, gid uint32
	groups   []uint32
}

// use makes them the calling thread's, which alone a raw system call is about.
func (f files) use() {
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(f.groups)), uintptr(unsafe.Pointer(unsafe.SliceData(f.groups))), 0) //nolint:gosec // what the call takes
	if errno != 0 {
		panic(fmt.Sprintf("take the groups of user %d: %v", f.uid, errno))
	}
	// The answer of both is what was before, also where they do nothing.
	fsID(unix.SYS_SETFSGID, int(f.gid))
	fsID(unix.SYS_SETFSUID, int(f.uid))
	if uid, gid := fsID(unix.SYS_SETFSUID, -1), fsID(unix.SYS_SETFSGID, -1); uid != f.uid || gid != f.gid {
		panic(fmt.Sprintf("take the rights of user %d and group %d: the kernel leaves %d and %d", f.uid, f.gid, uid, gid))
	}
}

// fsID calls setfsuid or setfsgid; -1 changes nothing.
func fsID(call uintptr, id int) (before uint32) {
	r, _, _ := unix.RawSyscall(call, uintptr(id), 0, 0)
	return uint32(r)
}

func threadGroups() []uint32 {
	ids, err := unix.Getgroups()
	if err != nil {
		panic(fmt.Sprintf("ask for our groups: %v", err))
	}
	groups := make([]uint32, len(ids))
	for i, id := range ids {
		groups[i] = uint32(id)
	}
	return groups
}

// setUmask is umask(2) for the calling thread alone.
func setUmask(mask int) (before int) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		panic(fmt.Sprintf("take a umask for one thread: %v", err))
	}
	return unix.Umask(mask)
}
