package answer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/config"
)

// Verified is what the last `verify` on this host has found.
type Verified struct {
	At       time.Time `json:"at"`
	Events   int64     `json:"events"`
	Breaches []string  `json:"breaches"`
}

// OfLog are the breaches that say that the log itself was changed.
func (v Verified) OfLog() []string {
	return slices.DeleteFunc(slices.Clone(v.Breaches), func(b string) bool { return !strings.HasPrefix(b, "log: ") })
}

// VerifiedPath is where it is kept.
func VerifiedPath(cfg *config.Config) string { return filepath.Join(cfg.StateDir, "verified.json") }

// LastVerify reads it; nil where nobody has verified yet.
func LastVerify(cfg *config.Config) (*Verified, error) {
	raw, err := os.ReadFile(VerifiedPath(cfg))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var v Verified
	if err == nil {
		err = json.Unmarshal(raw, &v)
	}
	if err != nil {
		return nil, fmt.Errorf("read what the last verify found: %w", err)
	}
	return &v, nil
}
