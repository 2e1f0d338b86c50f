package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/durable"
	"github.com/ducompsoc/durhack-deployer/internal/mirror"
	"github.com/ducompsoc/durhack-deployer/queue"
)

// keepInstance keeps the name of the instance in state_dir at the first start.
// Commands of other users read it, too.
func keepInstance(cfg *config.Config) error {
	err := durable.CreateFile(config.InstanceFile(cfg.StateDir), []byte(cfg.Instance+"\n"), 0o644)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keep the name of the instance in state_dir: %w", err)
	}
	return nil
}

// maxForeign bounds how many deliveries a line of Foreign names.
const maxForeign = 10

// Foreign names, a line for each queue and instance, the entries that wait in this
// state_dir and that another instance of the log ordered. They are left alone.
func Foreign(ctx context.Context, cfg *config.Config, store *Store) ([]string, error) {
	names, err := QueueNames(cfg)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, name := range names {
		entries, err := queue.List(cfg.QueueDir(name))
		if err != nil || len(entries) == 0 {
			continue // what cannot be read is told of as that
		}
		ids := make([]string, len(entries))
		for i, e := range entries {
			ids[i] = e.DeliveryID
		}
		others, err := mirror.Others(ctx, store.Log, cfg.Instance, ids)
		if err != nil {
			return nil, err
		}
		of := map[string][]string{}
		for _, e := range entries {
			if other := others[e.ID.String()]; other != "" {
				of[other] = append(of[other], e.DeliveryID)
			}
		}
		for _, other := range slices.Sorted(maps.Keys(of)) {
			deliveries := strings.Join(of[other][:min(len(of[other]), maxForeign)], ", ")
			if more := len(of[other]) - maxForeign; more > 0 {
				deliveries += fmt.Sprintf(", and %d more", more)
			}
			lines = append(lines, fmt.Sprintf("in the queue of %s, but ordered by instance %q, and left alone by this one, %q: %s",
				name, other, cfg.Instance, deliveries))
		}
	}
	return lines, nil
}
