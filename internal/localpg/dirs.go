package localpg

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxSocketPath is what sockaddr_un holds on Linux, without the closing NUL.
const maxSocketPath = 107

// makeDir makes the cluster's directory and gives it to its owner. Nobody else
// but root can enter it, which is what protects everything inside.
func (c *Cluster) makeDir() error {
	if err := os.MkdirAll(filepath.Dir(c.dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(c.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	uid, err := ownerOf(c.dir)
	if err != nil {
		return err
	}
	if c.owner.other && uid != c.owner.uid {
		// Fresh, or root was interrupted before this line. Never give away a
		// directory that somebody uses for something else.
		if err := c.refuseForeign(); err != nil {
			return err
		}
		if err := os.Lchown(c.dir, c.owner.uid, c.owner.gid); err != nil {
			return err
		}
	}
	if c.owner.other {
		return c.owner.checkReach(c.dir)
	}
	return nil
}

func (c *Cluster) refuseForeign() error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return nil
	}
	// Another that starts just now gives it away before it puts anything there.
	uid, err := ownerOf(c.dir)
	if err != nil {
		return err
	}
	if uid != c.owner.uid {
		return fmt.Errorf("the directory belongs to root and holds %s: Postgres cannot run as root; use an empty directory, or give it to an ordinary user (chown -R)", entries[0].Name())
	}
	return nil
}

// openOwned opens a file of the cluster's directory, making it if need be. The
// directory belongs to an unprivileged user while the caller may be root, so
// nothing that was put in the file's place may be followed.
func (c *Cluster) openOwned(name string, flags int) (*os.File, error) {
	path := filepath.Join(c.dir, name)
	for {
		f, err := os.OpenFile(path, flags|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
		if errors.Is(err, fs.ErrExist) {
			f, err = os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed in between
			}
		}
		if err != nil {
			return nil, err
		}
		if err := c.adoptFile(f); err != nil {
			return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), f.Close())
		}
		return f, nil
	}
}

// adoptFile refuses what is not a plain file of the cluster's owner, and gives
// it one that root has just made.
func (c *Cluster) adoptFile(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		return errors.New("not a plain file")
	}
	switch {
	case int(st.Uid) == c.owner.uid:
		return nil
	case c.owner.other && st.Uid == 0:
		return f.Chown(c.owner.uid, c.owner.gid)
	default:
		return fmt.Errorf("belongs to %s and not to %s", userName(int(st.Uid)), c.owner.name)
	}
}

// socketDir returns the directory of the socket, made and owned by the
// cluster's owner. A path that is too long for a socket, or that could not
// stand in Postgres' and pgx' lists of hosts unquoted, is replaced by a short one that
// every process derives alike (so not from TMPDIR).
func (c *Cluster) socketDir() (string, error) {
	dir := filepath.Join(c.dir, "run")
	if len(dir)+1+len(socketName) > maxSocketPath || strings.ContainsFunc(dir, unplain) {
		sum := sha256.Sum256([]byte(c.dir))
		dir = fmt.Sprintf("/tmp/durhack-pg-%d-%s", c.owner.uid, hex.EncodeToString(sum[:8]))
	}
	for {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		err := c.ownSocketDir(dir)
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		// The last user of the cluster has just removed it again.
	}
}

func (c *Cluster) ownSocketDir(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Uid == 0 && c.owner.other {
		if err := os.Lchown(dir, c.owner.uid, c.owner.gid); err != nil {
			return err
		}
		st.Uid = uint32(c.owner.uid)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != c.owner.uid || st.Mode&0o077 != 0 {
		return fmt.Errorf("%s is not a private directory of %s: somebody else made it; remove it", dir, c.owner.name)
	}
	return nil
}

// removeSocketDir removes a socket's directory that stands elsewhere, so that
// nothing is left where the cluster's directory is removed. The next start makes it
// again. The start lock is held and no server runs.
func (c *Cluster) removeSocketDir() error {
	if c.sock == filepath.Join(c.dir, "run") {
		return nil
	}
	// A server that was killed has left the files.
	for _, path := range []string{filepath.Join(c.sock, socketName), filepath.Join(c.sock, socketName+".lock"), c.sock} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the socket's directory: %w", err)
		}
	}
	return nil
}

func unplain(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+@", r))
}
