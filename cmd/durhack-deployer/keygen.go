package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/daemon"
)

func (c *cli) keygenCommand() *cobra.Command {
	return &cobra.Command{
		Use: "keygen", Short: "Make the key that signs checkpoints of the log",
		Long: `Makes an Ed25519 key, keeps it in {state_dir}/signer.key or in signing_key_file,
for its owner alone, and prints the verifier key: give that to whoever shall be
able to check what is signed. A key that is there already is never replaced.
The daemon signs from its next start on.`,
		Args: takes(),
		RunE: func(*cobra.Command, []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			key, err := daemon.NewSigningKey(cfg)
			if errors.Is(err, fs.ErrExist) {
				return &hintedError{
					fmt.Errorf("there is a signing key already: %s", daemon.SigningKeyPath(cfg)),
					"to sign with a new one from now on, move it and " + cfg.StateDir + "/checkpoint away, and keep both",
				}
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(c.err, "the key is in %s; restart the daemon to sign with it\n", printable(daemon.SigningKeyPath(cfg)))
			_, err = fmt.Fprintln(c.out, key.Public())
			return err
		},
	}
}
