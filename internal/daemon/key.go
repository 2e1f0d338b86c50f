package daemon

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/durable"
	"github.com/ducompsoc/durhack-deployer/internal/process"
)

// checkKey says what keeps ssh from using the deploy key.
func checkKey(d *config.Deployment) error {
	path := d.Key
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("key %s is not there: make it with `ssh-keygen -t ed25519 -N \"\" -f %[1]s`, give it to the deployer's user, and add %[1]s.pub to the repository's deploy keys", path)
	case errors.Is(err, fs.ErrPermission):
		return nil // whoever asks is not the deployer; ssh itself says it to that one
	case err != nil:
		return fmt.Errorf("look at key %s: %w", path, err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("key %s is not a file; name the private key", path)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("key %s has mode %04o: others than its owner may use it; chmod 600 it, and make a new one if somebody has", path, info.Mode().Perm())
	}
	if text, err := os.ReadFile(path); err == nil {
		if wrong := wrongKey(text); wrong != "" {
			return fmt.Errorf("key %s %s", path, wrong)
		}
	}
	as, err := As(d)
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && err == nil && as.User != nil && stat.Uid != as.User.UID {
		return fmt.Errorf("key %s belongs to %s, and git runs as %s: give it to that user (chown)", path, process.NameOf(int(stat.Uid)), as.User.Name)
	}
	return nil
}

// wrongKey says what is wrong with the content of a key, of which ssh itself says no more
// than that the remote has refused it.
func wrongKey(text []byte) string {
	block, _ := pem.Decode(text)
	if block == nil {
		return "is not a private key as ssh-keygen makes it; name the private key, not the file that ends in .pub"
	}
	sealed := block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED")
	if block.Type == "OPENSSH PRIVATE KEY" { // after its magic comes the name of the cipher
		sealed = !bytes.HasPrefix(block.Bytes, []byte("openssh-key-v1\x00\x00\x00\x00\x04none"))
	}
	if sealed {
		return "has a passphrase, which nobody is there to type: take it away with `ssh-keygen -p -N \"\" -f FILE`, or make a key without"
	}
	return ""
}

// gitHub is the host key that GitHub publishes; its SHA256 is +DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU.
const gitHub = "github.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl\n"

func knownHosts(cfg *config.Config) string { return filepath.Join(cfg.StateDir, "known_hosts") }

// makeKnownHosts makes the file of hosts that deploy keys are shown to, if there are any. ssh
// adds others when it first meets them.
func makeKnownHosts(cfg *config.Config) error {
	for _, d := range cfg.Deployments {
		if d.Key == "" {
			continue
		}
		if err := durable.CreateFile(knownHosts(cfg), []byte(gitHub), 0o644); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make the file of known hosts in state_dir: %w", err)
		}
		return nil
	}
	return nil
}
