package self

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/durable"
)

// probation is what the next process, and the guard, must know of a switch. The guard
// reads from, to, deadline and one_way, each on a line of its own.
type probation struct {
	From       string `json:"from"`
	To         string `json:"to"`
	DeliveryID string `json:"delivery_id"`
	Attempt    int    `json:"attempt"`
	// Deadline is in seconds of Unix time.
	Deadline int64 `json:"deadline"`
	// OneWay says that From cannot work any more: the guard stays out of it.
	OneWay bool `json:"one_way"`
	// Reason is why To gave up by itself.
	Reason string `json:"reason,omitempty"`
}

func (h *Handler) probationFile() string { return filepath.Join(h.cfg.StateDir, "probation.json") }

// startsFile has a line for each start in the probation, by the guard.
func (h *Handler) startsFile() string { return filepath.Join(h.cfg.StateDir, "starts") }

// begin notes a probation before the switch.
func (h *Handler) begin(p probation) error {
	if err := os.MkdirAll(h.cfg.StateDir, 0o750); err != nil {
		return fmt.Errorf("note the probation: %w", err)
	}
	if err := os.Remove(h.startsFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("note the probation: %w", err)
	}
	return h.note(p)
}

func (h *Handler) note(p probation) error {
	text, err := json.MarshalIndent(p, "", "")
	if err == nil {
		err = durable.WriteFile(h.probationFile(), append(text, '\n'), 0o640)
	}
	if err != nil {
		return fmt.Errorf("note the probation: %w", err)
	}
	return nil
}

func (h *Handler) starts() int {
	text, _ := os.ReadFile(h.startsFile()) // without a guard there is none
	return strings.Count(string(text), "\n")
}

// Resume implements handlers.Resumer.
func (h *Handler) Resume(ctx context.Context, deliveryID string, attempt int, canceled func() error) (bool, error) {
	var p probation
	found, err := durable.ReadJSON(h.probationFile(), &p)
	if err != nil {
		return true, fmt.Errorf("the new version's probation cannot be read, so nobody knows whether it came up: %w", err)
	}
	if !found || p.DeliveryID != deliveryID || p.Attempt != attempt {
		return false, nil // of an earlier run
	}
	switch running := h.running(); {
	case running == p.To:
		return true, h.prove(ctx, p, canceled)
	case running != p.From:
		return true, fmt.Errorf("neither the new version nor the one before it runs, but %s", h.process.Executable)
	case p.Reason != "":
		return true, fmt.Errorf("switched back to %.12s: %s", p.From, p.Reason)
	case h.starts() == 1: // the guard gives it more
		return true, fmt.Errorf("the link was put back to %.12s by hand, before the new version had been ready for long enough", p.From)
	case h.starts() > 1:
		return true, fmt.Errorf("the new version did not come up in %d starts; switched back to %.12s: its log says why (journalctl)", h.starts()-1, p.From)
	}
	// Killed around the switch: so that the next start is not that of the new version.
	return true, errors.Join(errors.New("the deployer was ended in the switch to the new version, which was not started"), h.point(p.From))
}

// poll is how often a version in probation looks whether it is ready.
const poll = 200 * time.Millisecond

// prove waits until this process, the new version, has been ready for long enough. If
// that takes too long, or is canceled, it makes way for the one before.
func (h *Handler) prove(ctx context.Context, p probation, canceled func() error) error {
	// After a long time without power it gets its time, too.
	deadline := time.Unix(p.Deadline, 0)
	if least := time.Now().Add(2 * h.cfg.ReadyFor); deadline.Before(least) {
		deadline = least
	}
	tick := time.NewTicker(min(poll, h.cfg.ReadyFor))
	defer tick.Stop()
	for since := time.Now(); ; {
		reasons := h.process.Ready(ctx)
		now := time.Now()
		switch err := canceled(); {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return h.makeWay(ctx, p, err.Error())
		case len(reasons) == 0 && now.Sub(since) >= h.cfg.ReadyFor:
			return nil
		case len(reasons) > 0 && now.After(deadline):
			return h.makeWay(ctx, p, fmt.Sprintf("it was not ready for %v: %s", h.cfg.ReadyFor, strings.Join(reasons, "; ")))
		}
		if len(reasons) > 0 {
			since = now
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// makeWay ends this process, so that the version before is started and tells why, unless
// there is no way back.
func (h *Handler) makeWay(ctx context.Context, p probation, why string) error {
	if p.OneWay {
		return fmt.Errorf("the new version stays, for it has changed the schema, but %s", why)
	}
	p.Reason = why
	if err := errors.Join(h.note(p), h.point(p.From)); err != nil {
		return err
	}
	h.process.HandOver()
	<-ctx.Done()
	return context.Cause(ctx)
}

const (
	// keep is how many releases stay beside the one that runs.
	keep = 3
	// halfMade begins the names of those that are being built.
	halfMade = ".new-"
)

// Settle implements handlers.Resumer: the probation is over, and old releases go.
func (h *Handler) Settle() {
	if h.running() == "" {
		return
	}
	if os.Remove(h.probationFile()) != nil { // as ever
		return
	}
	_ = os.Remove(h.startsFile())
	h.prune()
}

// prune removes old releases, and those that are half made.
func (h *Handler) prune() {
	old, _ := os.ReadDir(h.releases())
	age := func(e fs.DirEntry) int64 {
		if info, err := e.Info(); err == nil {
			return info.ModTime().UnixNano()
		}
		return 0
	}
	old = slices.DeleteFunc(old, func(e fs.DirEntry) bool { return e.Name() == h.running() })
	slices.SortFunc(old, func(a, b fs.DirEntry) int { return cmp.Compare(age(b), age(a)) })
	whole := 0
	for _, e := range old {
		if !strings.HasPrefix(e.Name(), halfMade) {
			whole++
		}
		if strings.HasPrefix(e.Name(), halfMade) || whole > keep {
			_ = os.RemoveAll(h.release(e.Name()))
		}
	}
}
