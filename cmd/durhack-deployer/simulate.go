package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/act"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/router"
	"github.com/ducompsoc/durhack-deployer/internal/simulate"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

// simulatedRow is a line of `replay --simulate --json`.
type simulatedRow struct {
	DeliveryID string      `json:"delivery_id"`
	ReceivedAt time.Time   `json:"received_at"`
	Actor      string      `json:"actor"`
	Repository string      `json:"repository"`
	Ref        string      `json:"ref"`
	Commit     string      `json:"commit"`
	Was        *verdictRow `json:"was"`
	Now        *verdictRow `json:"now"`
	Unknown    string      `json:"cannot_say,omitempty"`
}

type verdictRow struct {
	Deployments []string `json:"deployments"`
	Reason      string   `json:"reason,omitempty"`
	Detail      string   `json:"detail"`
}

func newVerdictRow(v router.Verdict) *verdictRow {
	if v.Void != nil {
		return &verdictRow{Deployments: []string{}, Reason: string(v.Void.Reason), Detail: v.Void.Detail}
	}
	var rules []string
	for _, a := range v.Forwards {
		rules = append(rules, a.Rule)
	}
	return &verdictRow{Deployments: v.Deployments(), Detail: strings.Join(rules, "; ")}
}

// simulate decides stored deliveries by another configuration and prints what
// would be decided differently. It appends nothing.
func (c *cli) simulate(ctx context.Context, deliveries []string, o replayOptions, filter eventlog.Filter) error {
	other, err := config.Load(o.withConfig, os.Getenv)
	if err != nil {
		return err
	}
	return c.withStore(ctx, func(cfg *config.Config, store *daemon.Store) error {
		ids, err := deliveryIDs(ctx, cfg, store, deliveries)
		if err != nil {
			return err
		}
		filter.Instance, filter.DeliveryIDs = cfg.Instance, ids
		p := painterFor(c.out)
		restore := func(ctx context.Context, events []eventlog.Event) (delivery.Delivery, error) {
			return act.StoredDelivery(ctx, store.Log, events)
		}
		result, err := simulate.Run(ctx, store.Log, restore, filter, router.Rules(other), func(s simulate.Outcome) error {
			if o.json {
				return writeJSON(c.out, newSimulatedRow(s))
			}
			return c.tellSimulated(p, s)
		})
		if err != nil {
			return err
		}
		if !o.json {
			text := fmt.Sprintf("%s of %s would change", words.Counted(int64(result.Changed), "decision", "decisions"), words.Counted(int64(result.Decided), "delivery", "deliveries"))
			if result.Unknown > 0 {
				text += fmt.Sprintf("; of %d more nothing can be said", result.Unknown)
			}
			if _, err := fmt.Fprintln(c.out, text); err != nil {
				return err
			}
		}
		if result.Changed > 0 {
			return errDecisionsChange
		}
		return nil
	})
}

func newSimulatedRow(s simulate.Outcome) simulatedRow {
	row := simulatedRow{
		DeliveryID: s.DeliveryID, ReceivedAt: s.ReceivedAt, Actor: s.Actor, Repository: s.Repository, Ref: s.Ref,
		Commit: s.Commit, Unknown: s.Unknown,
	}
	if s.Unknown == "" {
		row.Was, row.Now = newVerdictRow(s.Was), newVerdictRow(s.Now)
	}
	return row
}

func (c *cli) tellSimulated(p painter, s simulate.Outcome) error {
	what := s.Repository
	if s.Ref != "" {
		what += " " + strings.TrimPrefix(s.Ref, "refs/heads/")
	}
	if s.Commit != "" {
		what += ", commit " + words.ShortCommit(s.Commit)
	}
	head := fmt.Sprintf("%s  delivery %s, %s, by %s", words.Clock(s.ReceivedAt), s.DeliveryID, orDash(strings.TrimSpace(what)), s.Actor)
	if _, err := fmt.Fprintln(c.out, p.paint(bold, printable(head))); err != nil {
		return err
	}
	if s.Unknown != "" {
		_, err := fmt.Fprintf(c.out, "    %s  %s\n", p.paint(yellow, "cannot say"), printable(s.Unknown))
		return err
	}
	_, err := fmt.Fprintf(c.out, "    %s  %s\n    %s  %s\n", p.paint(red, "was"), words.Shorten(printable(s.Was.String()), maxTold),
		p.paint(green, "now"), words.Shorten(printable(s.Now.String()), maxTold))
	return err
}
