package localpg

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// initPrefix begins the names of data directories that are being made.
const initPrefix = "data.new-"

// initialize makes the data directory under another name and renames it when
// it is whole, so that one that exists is always whole. The start lock is held.
func (c *Cluster) initialize(ctx context.Context, p programs) error {
	halves, err := filepath.Glob(filepath.Join(escapeGlob(c.dir), initPrefix+"*"))
	if err != nil {
		return err
	}
	for _, half := range halves {
		// An initdb whose parent was killed may still write there: then a later
		// start removes the rest, and the name chosen below is another.
		c.log.Warn("removing a half-made Postgres cluster", "dir", half)
		if err := os.RemoveAll(half); err != nil {
			c.log.Warn("cannot remove a half-made Postgres cluster", "dir", half, "error", err)
		}
	}
	fresh := filepath.Join(c.dir, initPrefix+rand.Text())
	if err := c.initdb(ctx, p, fresh); err != nil {
		return err
	}
	if err := os.Rename(fresh, filepath.Join(c.dir, "data")); err != nil {
		return err
	}
	if !c.cfg.Durable {
		return nil
	}
	d, err := os.Open(c.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (c *Cluster) initdb(ctx context.Context, p programs, data string) error {
	args := []string{
		"--pgdata=" + data, "--username=" + User, "--auth=peer",
		"--encoding=UTF8", "--locale=C", "--no-instructions",
	}
	if !c.cfg.Durable {
		// Most of what initdb writes is one segment of 16 MiB.
		args = append(args, "--no-sync", "--wal-segsize=1")
	}
	start := time.Now()
	cmd, out := c.command(ctx, filepath.Join(p.dir, "initdb"), args...)
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("make the cluster: %w", context.Cause(ctx))
		}
		return fmt.Errorf("make the cluster: %w", c.explainRun(p, err, out.String()))
	}
	c.log.Info("made a private Postgres cluster", "dir", c.dir, "user", c.owner.name, "version", p.major, "took", time.Since(start))
	return nil
}

// command is a program of the cluster, and what it will have printed.
func (c *Cluster) command(ctx context.Context, program string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd, out := sessionCommand(ctx, program, args...)
	cmd.Dir, cmd.Env = c.dir, c.environ()
	cmd.SysProcAttr.Credential = c.owner.credential()
	return cmd, out
}

// sessionCommand is a program in its own session: a Ctrl-C meant for the
// caller must not leave half a cluster; cancelling ctx is what ends it.
func sessionCommand(ctx context.Context, program string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd, &out
}

// explainRun adds to a failed run what is known about it.
func (c *Cluster) explainRun(p programs, err error, output string) error {
	if c.owner.other {
		if reach := c.owner.checkReach(p.dir); reach != nil {
			return reach
		}
	}
	if output = strings.TrimSpace(output); output != "" {
		return fmt.Errorf("%w: %s", err, output)
	}
	return err
}

// environ is what the programs get: nothing of the caller's environment, which
// may hold secrets and PG* variables, but what the dynamic linker needs.
func (c *Cluster) environ() []string {
	env := []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", "HOME=" + c.dir}
	if v, ok := os.LookupEnv("LD_LIBRARY_PATH"); ok {
		env = append(env, "LD_LIBRARY_PATH="+v)
	}
	return env
}

const (
	// The last field of a line of pg_ident.conf is a database user.
	hbaConf   = "# Written at each start. Who may connect: see pg_ident.conf.\nlocal all all peer map=owner\n"
	identConf = "# Written at each start.\n# MAPNAME SYSTEM-USERNAME PG-USERNAME\n"
)

// writeAccess says who may connect: the OS user that the cluster runs as and
// root, as one database user, told by the kernel. It is written at each start
// because the directory may have been given to another user.
func (c *Cluster) writeAccess() error {
	ident := identConf
	for _, name := range []string{"root", c.owner.name} {
		ident += fmt.Sprintf("owner %s %s\n", quoteIdent(name), User)
		if c.owner.name == "root" {
			break
		}
	}
	// os.Root: the directory belongs to an unprivileged user, and nothing that
	// is linked to from inside it may be written by root.
	root, err := os.OpenRoot(filepath.Join(c.dir, "data"))
	if err != nil {
		return err
	}
	defer root.Close()
	for name, content := range map[string]string{"pg_hba.conf": hbaConf, "pg_ident.conf": ident} {
		if err := c.writeConf(root, name, content); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

func (c *Cluster) writeConf(root *os.Root, name, content string) error {
	if old, err := root.ReadFile(name); err == nil && string(old) == content {
		return nil
	}
	tmp := name + ".new"
	if err := root.Remove(tmp); err != nil && !os.IsNotExist(err) {
		return err
	}
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.WriteString(f, content); err != nil {
		return err
	}
	if c.owner.other {
		if err := f.Chown(c.owner.uid, c.owner.gid); err != nil {
			return err
		}
	}
	if c.cfg.Durable {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return root.Rename(tmp, name)
}

// quoteIdent quotes a user name for pg_ident.conf, where a leading slash or
// plus, a comma or a hash would otherwise mean something.
func quoteIdent(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
