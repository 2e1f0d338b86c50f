package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"

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

// sign signs checkpoints until ctx ends, where there is a key.
func sign(ctx context.Context, o Options, store *Store) error {
	key, err := SigningKey(o.Config)
	if err != nil {
		return err
	}
	if key == nil {
		o.Logger.Info("the log is not signed: there is no signing key (durhack-deployer keygen makes one)", "looked_for", SigningKeyPath(o.Config))
		<-ctx.Done()
		return nil
	}
	return NewSigner(o, store, key).Run(ctx)
}
