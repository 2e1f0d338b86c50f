package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/config"
)

// waitingFile tells the commands which deployments wait for a free slot, one a line.
// There is none while nobody waits.
func waitingFile(cfg *config.Config) string { return filepath.Join(runsDir(cfg), ".waiting") }

func tellWaiting(cfg *config.Config, log *slog.Logger, slugs []string) {
	var err error
	if len(slugs) == 0 {
		err = os.Remove(waitingFile(cfg))
	} else {
		err = os.WriteFile(waitingFile(cfg), []byte(strings.Join(slugs, "\n")+"\n"), 0o640) //nolint:gosec // as the run logs beside it
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("cannot tell which deployments wait for a free slot", "error", err)
	}
}

// placeInLine is the deployment's among those that wait for a free slot; "" where it does not.
func placeInLine(cfg *config.Config, slug string) string {
	raw, err := os.ReadFile(waitingFile(cfg))
	if err != nil || slug == "" {
		return ""
	}
	names := [...]string{"first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"}
	i := slices.Index(strings.Split(string(raw), "\n"), slug)
	switch {
	case i < 0:
		return ""
	case i < len(names):
		return names[i]
	}
	return fmt.Sprintf("number %d", i+1)
}
