package answer

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/durable"
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
	var v Verified
	found, err := durable.ReadJSON(VerifiedPath(cfg), &v)
	if err != nil {
		return nil, fmt.Errorf("read what the last verify found: %w", err)
	}
	if !found {
		return nil, nil
	}
	return &v, nil
}
