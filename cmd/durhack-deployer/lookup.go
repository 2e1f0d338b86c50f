package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/act"
	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// deliveryIDs is deliveryID of each, and each once: a slip must not deploy twice.
func deliveryIDs(ctx context.Context, cfg *config.Config, store *daemon.Store, texts []string) ([]string, error) {
	var ids []string
	for _, text := range texts {
		id, err := daemon.Answers(cfg, store).DeliveryID(ctx, text)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// commit finds what a reference means for a deployment.
func (c *cli) commit(ctx context.Context, cfg *config.Config, d *config.Deployment, ref string) (string, error) {
	repo := daemon.Repository(cfg, d).Patient(git.DefaultPatience, func(why string) { fmt.Fprintln(c.err, printable(why)) })
	return act.Commit(ctx, repo, d, ref, func(ctx context.Context, text string) (events []eventlog.Event, err error) {
		err = c.withStore(ctx, func(cfg *config.Config, store *daemon.Store) error {
			events, err = daemon.Answers(cfg, store).Carrying(ctx, text)
			return err
		})
		return events, err
	})
}

// verifierKey is the key that the caller trusts: the one named, or the own one.
func (c *cli) verifierKey(public string) (note.Verifier, error) {
	if public != "" {
		v, err := checkpoint.ParseVerifier(public)
		if err != nil {
			return nil, usagef("--key: %w", err)
		}
		return v, nil
	}
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	key, err := daemon.SigningKey(cfg)
	if err != nil {
		return nil, &hintedError{err, "name the verifier key with --key"}
	}
	if key == nil {
		return nil, usagef("there is no signing key here; name the verifier key with --key")
	}
	return key.Verifier(), nil
}

// fullPatience is how long a command waits for a free connection of the server.
const fullPatience = 10 * time.Second

// withStore runs f with the configuration and the open log. A private cluster
// that is stopped is started for as long as f needs it.
func (c *cli) withStore(ctx context.Context, f func(cfg *config.Config, store *daemon.Store) error) error {
	patience, cancel := context.WithTimeout(ctx, fullPatience)
	defer cancel()
	return c.withStoreOnce(ctx, patience, eventlog.Full, f)
}

// withStoreOnce is withStore that waits until patience ends for what passes.
func (c *cli) withStoreOnce(ctx, patience context.Context, passes func(error) bool, f func(cfg *config.Config, store *daemon.Store) error) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	var store *daemon.Store
	c.databaseOutage().Until(patience, func() error {
		if store, err = daemon.OpenStore(ctx, cfg, c.logger(slog.LevelWarn), false); err != nil && passes(err) {
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	defer store.Close()
	return f(cfg, store)
}

// databaseOutage is told of as a wait for the database.
func (c *cli) databaseOutage() *retry.Outage {
	return retry.New(c.logger(slog.LevelWarn), slog.LevelWarn, "waiting for the database")
}

// actor is the person at the command line, for the log.
func actor() string { return actorOf(os.Geteuid(), os.Getenv("SUDO_USER")) }

// actorOf trusts SUDO_USER only of root, who can be anybody anyway: others
// would sign with any name. Nor is USER trusted, which os/user does where
// /etc/passwd does not have the user, so that is read here.
func actorOf(uid int, sudoUser string) string {
	if uid == 0 && sudoUser != "" {
		return sudoUser
	}
	id := strconv.Itoa(uid)
	passwd, _ := os.ReadFile("/etc/passwd") // without it there is still the number
	for line := range strings.Lines(string(passwd)) {
		if field := strings.Split(line, ":"); len(field) > 2 && field[2] == id {
			return field[0]
		}
	}
	return "uid " + id
}

// bodies lists the digests of what a delivery brought, and whether it is gone.
func bodies(events []eventlog.Event) (digests []string, redacted *eventlog.Event, err error) {
	for _, e := range events {
		data, err := e.Decode()
		if err != nil {
			return nil, nil, err
		}
		switch d := data.(type) {
		case eventlog.Received:
			if d.PayloadDigest != "" {
				digests = append(digests, d.PayloadDigest)
			}
		case eventlog.Redelivered:
			if d.PayloadDigest != "" {
				digests = append(digests, d.PayloadDigest)
			}
		case eventlog.Redacted:
			redacted = &e
		}
	}
	return digests, redacted, nil
}

// config loads the configuration that --config names, or the default one.
func (c *cli) config() (*config.Config, error) {
	paths := c.paths()
	if len(paths) == 0 {
		return nil, &hintedError{
			err:  fmt.Errorf("no configuration: /etc/durhack-deployer/ and ./config/ have no *.toml file"),
			hint: "name one with --config FILE; `durhack-deployer demo` needs none",
		}
	}
	return config.Load(paths, os.Getenv)
}

// paths are where the configuration is.
func (c *cli) paths() []string {
	if len(c.configPaths) > 0 {
		return c.configPaths
	}
	return config.DefaultPaths()
}
