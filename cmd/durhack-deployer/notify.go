package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/notify"
	"github.com/ducompsoc/durhack-deployer/internal/sender"
)

func (c *cli) notifyCommand() *cobra.Command {
	return group("notify", "Try the services that people are told through", c.notifyTestCommand())
}

// notifyTested is what `notify test --json` prints.
type notifyTested struct {
	Name    string `json:"name"`
	Service string `json:"service"`
	Sent    bool   `json:"sent"`
	// Refused says that the same would be refused again.
	Refused bool   `json:"refused,omitempty"`
	Error   string `json:"error,omitempty"`
}

func (c *cli) notifyTestCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "test NAME [--json]", Short: "Send a test to an entry of [[notify]], and say what came back",
		Long: `Sends one message to the entry of [[notify]] with that name, and waits for the
service's answer, for half a minute at the most. It needs neither the daemon nor the
database, and is not tried again. What is secret of the URL is not shown.`,
		Example: `  durhack-deployer notify test team`,
		Args:    takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			i := slices.IndexFunc(cfg.Notify, func(n config.Notify) bool { return n.Name == args[0] })
			if i < 0 {
				return unknownEntry(cfg, args[0])
			}
			url := cfg.Notify[i].URL.Reveal()
			if url == "" {
				return &hintedError{fmt.Errorf("the url of %s is not known to this user", args[0]), "run it as the user that the daemon runs as; `config check` says where the url is looked for"}
			}
			tested := notifyTested{Name: args[0], Service: sender.Service(url)}
			err = sender.New(url).Send(cmd.Context(), notify.Hello(cfg, args[0]))
			if tested.Sent = err == nil; err != nil {
				tested.Refused, tested.Error = sender.Refused(err), err.Error()
				next := "it may pass: messages are tried again for a day"
				if tested.Refused {
					next = "fix the url of the entry, or its right at the service; what is owed to it is told by itself within the hour then"
				}
				err = &hintedError{fmt.Errorf("%s was not told by %s: %w", args[0], tested.Service, err), next}
			}
			switch {
			case asJSON:
				return errors.Join(writeJSON(c.out, tested), err)
			case err != nil:
				return err
			}
			_, err = fmt.Fprintf(c.out, "sent to %s, and %s has taken it\n", args[0], tested.Service)
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func unknownEntry(cfg *config.Config, name string) error {
	var names []string
	for _, n := range cfg.Notify {
		names = append(names, n.Name)
	}
	err := fmt.Errorf("no entry of [[notify]] is called %q", name)
	if len(names) == 0 {
		return &hintedError{err, `the configuration has none; add [[notify]] with name = "..." and url_file = "..."`}
	}
	return &hintedError{err, "they are " + strings.Join(names, ", ")}
}
