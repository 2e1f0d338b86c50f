package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"path/filepath"
	"sync"

	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/durable"
	"github.com/ducompsoc/durhack-deployer/internal/signer"
)

// SigningKeyPath is where the signing key is, or would be.
func SigningKeyPath(cfg *config.Config) string {
	if cfg.SigningKeyFile != "" {
		return cfg.SigningKeyFile
	}
	return filepath.Join(cfg.StateDir, "signer.key")
}

// SigningKey is the key that checkpoints are signed with; nil where the
// configuration names none and none was made.
func SigningKey(cfg *config.Config) (*checkpoint.Key, error) {
	key, err := checkpoint.Load(SigningKeyPath(cfg))
	if errors.Is(err, fs.ErrNotExist) && cfg.SigningKeyFile == "" {
		return nil, nil
	}
	return key, err
}

// NewSigningKey makes a key, and never replaces one.
func NewSigningKey(cfg *config.Config) (*checkpoint.Key, error) {
	host := ""
	if u, err := url.Parse(cfg.Origin); err == nil {
		host = u.Host
	}
	private, key, err := checkpoint.Generate(checkpoint.Origin(host, cfg.Instance))
	if err != nil {
		return nil, err
	}
	if err := MakeStateDir(cfg); err != nil {
		return nil, err
	}
	if err := durable.CreateFile(SigningKeyPath(cfg), []byte(private+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("keep the signing key: %w", err)
	}
	return key, nil
}

// KeptCheckpoint is the checkpoint that was signed last, or nil where none was. Its
// signature is checked where the key can be read.
func KeptCheckpoint(cfg *config.Config) ([]byte, error) {
	signed, err := signer.Kept(cfg.StateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the checkpoint that was signed last: %w", err)
	}
	key, err := SigningKey(cfg)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	if key != nil {
		if _, err := checkpoint.Open(signed, key.Verifier()); err != nil {
			return nil, fmt.Errorf("%s: %w", signer.Path(cfg.StateDir), err)
		}
	}
	return signed, nil
}

// NewSigner returns what signs checkpoints of the store's log.
func NewSigner(o Options, store *Store, key *checkpoint.Key) *signer.Signer {
	return signer.New(signer.Options{Key: key, Log: store.Log, Dir: o.Config.StateDir, Logger: o.Logger})
}

// firstKey is the signing key, which the first start makes. Where something was
// signed already, the key that is missing is not replaced.
func firstKey(o Options) (*checkpoint.Key, error) {
	key, err := SigningKey(o.Config)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w (durhack-deployer keygen makes one there)", err)
	}
	if key != nil || err != nil {
		return key, err
	}
	if _, err := signer.Kept(o.Config.StateDir); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the signing key %s is missing, but a checkpoint was signed with it: put the key back, or move %s away (and keep it) to begin with another key",
			SigningKeyPath(o.Config), signer.Path(o.Config.StateDir))
	}
	if key, err = NewSigningKey(o.Config); err == nil {
		o.Logger.Info("made the key that signs the log; publish its verifier key", "file", SigningKeyPath(o.Config), "verifier_key", key.Public())
	}
	return key, err
}

// signing signs checkpoints of the log. What it has seen of the log outlasts what
// makes it start again.
type signing struct {
	mu     sync.Mutex
	signer *signer.Signer
}

func (s *signing) now() *signer.Signer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signer
}

func (s *signing) run(ctx context.Context, o Options, store *Store) error {
	if s.now() == nil {
		key, err := firstKey(o)
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.signer = NewSigner(o, store, key)
		s.mu.Unlock()
	}
	return s.now().Run(ctx)
}

// last signs what was appended last. What could not be signed is at the next start.
func (s *signing) last(ctx context.Context, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, lastWithin)
	defer cancel()
	if s.now() == nil {
		return
	}
	if _, _, err := s.now().Sign(ctx); err != nil {
		log.Warn("the last events are not signed; the next start does it", "error", err)
	}
}

// check is what /readyz says of it. What keeps it from running is said elsewhere.
func (s *signing) check(context.Context) (any, []string) {
	signer := s.now()
	if signer == nil {
		return map[string]any{"signing": false}, nil
	}
	if trouble := signer.Trouble(); trouble != "" {
		return map[string]any{"signing": false, "error": trouble}, []string{trouble}
	}
	return map[string]any{"signing": true}, nil
}
