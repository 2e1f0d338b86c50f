package daemon

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/act"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/dashboard"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
)

// adminHosts are the names by which browsers may ask for the admin pages.
func adminHosts(cfg *config.Config) []string {
	hosts := []string{strings.ToLower(cfg.Admin.Host)}
	for _, text := range []string{cfg.Admin.URL, cfg.Origin} {
		if u, err := url.Parse(text); err == nil && u.Host != "" {
			hosts = append(hosts, strings.ToLower(u.Hostname()))
		}
	}
	return hosts
}

// logins are who may act in the dashboard.
func (c *condition) logins(cfg *config.Config) (dashboard.Logins, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.store == nil || c.reading == nil {
		return dashboard.Logins{}, away(c.phase, c.why)
	}
	return dashboard.Logins{Pool: c.store.Pool, Reading: c.reading.Pool, Instance: cfg.Instance}, nil
}

// person is somebody who acts in the dashboard, as a person at the command line would.
func (c *condition) person(o Options, name string) (*act.Person, error) {
	phase, why, store, models := c.now()
	if store == nil {
		return nil, away(phase, why)
	}
	return &act.Person{
		Name: name, Config: o.Config, Log: store.Log, Models: models,
		Commit: func(ctx context.Context, d *config.Deployment, ref string) (string, error) {
			return act.Commit(ctx, Repository(o.Config, d), d, ref, Answers(o.Config, store).Carrying)
		},
		Enqueue: func(ctx context.Context, d delivery.Delivery) error {
			if _, err := o.main.Put(ctx, d.ID, d.EncodeTo); err != nil {
				return fmt.Errorf("put the deploy in the main queue: %w", err)
			}
			return nil
		},
		Sign: func(ctx context.Context) error {
			signer := c.signing.now()
			if signer == nil {
				return nil // it has not begun; what is signed first holds this, too
			}
			if _, _, err := signer.Sign(ctx); err != nil {
				return &act.Error{Err: fmt.Errorf("it is in the log, but not signed: %w", err), Hint: "`durhack-deployer verify` says what is wrong with the log"}
			}
			return nil
		},
		Command: func(args ...string) string { return strings.Join(append([]string{"durhack-deployer"}, args...), " ") },
	}, nil
}
