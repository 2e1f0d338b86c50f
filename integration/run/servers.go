package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/localpg"
	"github.com/ducompsoc/durhack-deployer/internal/redistest"
)

// engineTimeout is for the engine's answer to whether it is there.
const engineTimeout = 10 * time.Second

// engineMissing says in a few words why Docker cannot be used, or "".
func engineMissing(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	for _, argv := range [][]string{{"version", "--format", "{{.Server.Version}}"}, {"compose", "version"}} {
		out, err := exec.CommandContext(ctx, "docker", argv...).CombinedOutput()
		switch {
		case errors.Is(err, exec.ErrNotFound):
			return "docker is not installed"
		case err != nil:
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			if last := lines[len(lines)-1]; last != "" {
				return last
			}
			return err.Error()
		}
	}
	return ""
}

// compose brings up the servers of compose.yaml.
func compose(ctx context.Context, root string) (_ servers, err error) {
	file := filepath.Join(root, "compose.yaml")
	docker := func(ctx context.Context, args ...string) error {
		cmd := exec.CommandContext(ctx, "docker", append([]string{"compose", "--file", file}, args...)...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("docker compose %s: %w", args[0], err)
		}
		return nil
	}
	down := func(ctx context.Context) error {
		return docker(ctx, "down", "--volumes", "--remove-orphans", "--timeout", "5")
	}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
			defer cancel()
			err = errors.Join(err, down(ctx))
		}
	}()
	if err := docker(ctx, "up", "--detach", "--wait"); err != nil {
		return servers{}, err
	}
	address := func(service, port string) (string, error) {
		out, err := exec.CommandContext(ctx, "docker", "compose", "--file", file, "port", service, port).Output()
		if err != nil {
			return "", fmt.Errorf("ask for the port of %s: %w", service, err)
		}
		return strings.TrimSpace(string(out)), nil
	}
	postgres, err := address("postgres", "5432")
	if err != nil {
		return servers{}, err
	}
	dragonfly, err := address("dragonfly", "6379")
	if err != nil {
		return servers{}, err
	}
	return servers{
		database: "postgres://durhack:durhack@" + postgres + "/durhack?sslmode=disable",
		redis:    "redis://" + dragonfly + "/0",
		down:     down,
	}, nil
}

// local starts a Postgres and a redis-server of this machine.
func local(ctx context.Context, _ string) (_ servers, err error) {
	dir, err := os.MkdirTemp("", "durhack-integration-servers-")
	if err != nil {
		return servers{}, fmt.Errorf("make a directory for the servers: %w", err)
	}
	var redis *redistest.Server
	var postgres *localpg.Cluster
	down := func(ctx context.Context) error {
		if redis != nil {
			redis.Kill()
		}
		var err error
		if postgres != nil {
			err = postgres.Close(ctx)
		}
		return errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
			defer cancel()
			err = errors.Join(err, down(ctx))
		}
	}()
	// Run by root, Postgres is another user's, who must be able to get in.
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // 0711 lets nobody list it
		return servers{}, err
	}
	if redis, err = redistest.Start(ctx, dir); err != nil {
		return servers{}, err
	}
	postgres, err = localpg.Open(ctx, localpg.Config{Dir: filepath.Join(dir, "pg"), DieWithParent: true})
	if err != nil {
		return servers{}, err
	}
	return servers{database: postgres.DSN("postgres"), redis: redis.URL(), down: down}, nil
}
