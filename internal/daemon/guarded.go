package daemon

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/names"
)

// GuardedFile is what no step of another user may use, and how (see access(2)).
type GuardedFile struct {
	Path string
	Use  uint32
}

// Guarded lists what is the daemon's alone, some of which may not be there: others could
// sign with it, forge deliveries, read what the steps of all print, rewrite the log, or speak in its name.
func Guarded(cfg *config.Config) []GuardedFile {
	list := []GuardedFile{
		{SigningKeyPath(cfg), unix.R_OK}, {cfg.QueueDir(names.MainQueue), unix.W_OK}, {runsDir(cfg), unix.R_OK}, {PrivateCluster(cfg), unix.X_OK},
	}
	secret := append(slices.Clip(cfg.SecretFiles), cfg.GitHub.TokenFile, cfg.GitHub.PrivateKeyFile)
	for _, n := range cfg.Notify {
		secret = append(secret, n.URLFile)
	}
	for _, path := range secret {
		if path != "" {
			list = append(list, GuardedFile{path, unix.R_OK})
		}
	}
	for _, v := range cfg.Origins() {
		notify := strings.HasPrefix(v.Key, "notify[") && strings.HasSuffix(v.Key, ".url")
		if (notify || slices.Contains([]string{"webhook_secret_token", "database_url"}, v.Key)) && v.File != "" {
			list = append(list, GuardedFile{v.File, unix.R_OK})
		}
	}
	return list
}
