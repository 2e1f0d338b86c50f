package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/check"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

func (c *cli) doctorCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "doctor [--json]", Short: "Find problems, and say how to fix them",
		Long: `Checks the configuration, the webhook secret, the rights and the space of
state_dir, the queues, the database with its read models, the lock server, git and
the remotes, the programs of the steps, whether root would do what the steps ask of
it, and whether the daemon runs. One line for each finding: ok, warn or FAIL, and
what to do. It changes nothing. Exit 1 if something fails. Run it as the user that
the daemon runs as.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			failed := 0
			tell := func(f check.Finding) error {
				if f.Level == check.Fail {
					failed++
				}
				return c.printFinding(f, asJSON)
			}
			cfg, err := c.config()
			var many *config.Errors
			switch {
			case errors.As(err, &many):
				for _, e := range many.List {
					if err := tell(check.Finding{Check: "configuration", Level: check.Fail, Text: e.Error()}); err != nil {
						return err
					}
				}
				for _, program := range []string{"serve", "work", "listen"} {
					if _, at, err := config.LoadKept(program, c.configPaths, c.paths(), os.Getenv); err == nil {
						if err := tell(check.Finding{Check: "configuration", Level: check.Warn, Text: fmt.Sprintf("until then %q starts with the last good one, of %s", program, words.Clock(at))}); err != nil {
							return err
						}
					}
				}
				return failures(failed)
			case err != nil:
				return err
			}
			var printErr error
			err = check.Doctor(cmd.Context(), cfg, discard(), func(f check.Finding) {
				printErr = errors.Join(printErr, tell(f))
			})
			if err = errors.Join(err, printErr); err != nil {
				return err
			}
			return failures(failed)
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func failures(n int) error {
	if n == 0 {
		return nil
	}
	return &hintedError{errors.New(words.Counted(int64(n), "check fails", "checks fail")), "each FAIL says what to do; then run it again"}
}

func (c *cli) printFinding(f check.Finding, asJSON bool) error {
	if asJSON {
		return writeJSON(c.out, f)
	}
	word, colour := string(f.Level), map[check.Level]colour{check.OK: green, check.Warn: yellow, check.Fail: red}[f.Level]
	if f.Level == check.Fail {
		word = strings.ToUpper(word)
	}
	text := f.Text
	if f.Advice != "" {
		text += ": " + f.Advice
	}
	_, err := fmt.Fprintf(c.out, "%s  %s  %s\n", painterFor(c.out).paint(colour, pad(word, len("warn"))), pad(f.Check, len("configuration")), printable(strings.ReplaceAll(text, "\n", "; ")))
	return err
}
