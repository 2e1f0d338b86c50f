package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/worker"
)

// answerWithin bounds a question to a server.
const answerWithin = 3 * time.Second

// lockPatience is how long a worker waits for a lock before that is worth a word.
const lockPatience = 2 * time.Second

// Obstacle says why what waits for a deployment does not begin, as far as this
// host can tell; "" where nothing is known that keeps it from its turn. An empty
// slug asks for what concerns all of them.
func Obstacle(ctx context.Context, cfg *config.Config, slug string) string {
	if runs, err := WorkerRuns(cfg); err == nil && !runs {
		return fmt.Sprintf("no worker runs on %s: start `durhack-deployer serve` or `work`", cfg.StateDir)
	}
	locker, closeLocker, err := NewLocker(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err.Error()
	}
	defer closeLocker()
	return obstacle(ctx, cfg, slug, locker, func() []string {
		reasons, _, err := Reasons(ctx, cfg)
		if err != nil {
			return nil
		}
		return reasons
	})
}

// obstacle is Obstacle where a worker runs; reasons are what keeps it from working.
func obstacle(ctx context.Context, cfg *config.Config, slug string, locker Locker, reasons func() []string) string {
	if place := placeInLine(cfg, slug); place != "" {
		return "it waits for a free slot, " + place + " in line"
	}
	if slug != "" {
		if why, held := lockTrouble(ctx, cfg, locker, slug); why+held != "" {
			return why + held
		}
	}
	if said := reasons(); len(said) > 0 {
		return "the worker says: " + strings.Join(said, "; ")
	}
	return ""
}

// lockTrouble looks at the lock of a deployment: why nobody can have it, or who
// does, other than the worker of this state_dir.
func lockTrouble(ctx context.Context, cfg *config.Config, locker Locker, slug string) (trouble, held string) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	holder, err := locker.Holder(ctx, slug)
	switch {
	case err != nil:
		return err.Error(), ""
	case holder == "" || holder == workerProcess(cfg):
		return "", ""
	}
	return "", "its lock is held by " + holder
}

// Locker is the lock of deployments, and who holds it.
type Locker interface {
	worker.Locker
	// Holder names who holds the lock, "" where nobody does.
	Holder(ctx context.Context, name string) (string, error)
}

// notedLocker lets the condition know which deployments wait for their lock.
type notedLocker struct {
	Locker
	state *condition
}

func (n notedLocker) Acquire(ctx context.Context, name string) (context.Context, func() error, error) {
	n.state.await(name, time.Now())
	defer n.state.await(name, time.Time{})
	return n.Locker.Acquire(ctx, name)
}

// Reasons asks a worker of this host what keeps it from working, and what from finding
// pushes that GitHub did not deliver. It is an error
// where nothing answers, or another program; its pages may be switched off.
func Reasons(ctx context.Context, cfg *config.Config) (reasons []string, recovery RecoveryState, err error) {
	resp, err := AskHost(ctx, cfg.Admin.HostPort, "/readyz")
	if err != nil {
		return nil, recovery, err
	}
	defer resp.Body.Close()
	var ready struct {
		Instance string   `json:"instance"`
		Reasons  []string `json:"reasons"`
		Checks   struct {
			Recovery RecoveryState `json:"recovery"`
		} `json:"checks"`
	}
	const answerMax = 1 << 20 // bytes
	if err := json.NewDecoder(io.LimitReader(resp.Body, answerMax)).Decode(&ready); err != nil {
		return nil, recovery, fmt.Errorf("read what the worker says: %w", err)
	}
	if ready.Instance != cfg.Instance {
		return nil, recovery, fmt.Errorf("%s is of instance %q", resp.Request.URL, ready.Instance)
	}
	return ready.Reasons, ready.Checks.Recovery, nil
}

// AdminURL is where this host reaches the daemon's own pages, without a trailing slash.
func AdminURL(at config.HostPort) string {
	host := at.Host
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(at.Port))
}

// AskHost asks a daemon's own pages; one that listens everywhere is asked here.
func AskHost(ctx context.Context, at config.HostPort, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, AdminURL(at)+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask for %s: %w", path, err)
	}
	client := &http.Client{Timeout: answerWithin, Transport: &http.Transport{DisableKeepAlives: true}}
	return client.Do(req)
}
