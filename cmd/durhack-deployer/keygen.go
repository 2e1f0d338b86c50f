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
		Use: "keygen", Short: "Make the key that signs checkpoints of the log, and print its verifier key",
		Long: `Makes an Ed25519 key, keeps it in {state_dir}/signer.key or in signing_key_file,
for its owner alone, and prints the verifier key: give that to everybody who should
be able to check what is signed. A key that is there already is not replaced, and
its verifier key is printed. The first start of "serve" or "work" does the same
where signing_key_file is not set.`,
		Args: takes(),
		RunE: func(*cobra.Command, []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			said := "the key is in %s; restart the daemon to sign with it\n"
			key, err := daemon.NewSigningKey(cfg)
			if errors.Is(err, fs.ErrExist) {
				said = "the key was there already, in %s\n"
				key, err = daemon.SigningKey(cfg)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(c.err, said, printable(daemon.SigningKeyPath(cfg)))
			_, err = fmt.Fprintln(c.out, key.Public())
			return err
		},
	}
}
