package daemon

import (
	"context"
	"io"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/helper"
)

// Helper is the way to root that the configuration names.
func Helper(cfg *config.Config) helper.Client {
	return helper.Client{Socket: cfg.Helper.Socket, Command: cfg.Helper.Command}
}

// root is the helper as handlers ask it.
type root struct{ helper.Client }

func (r root) Call(ctx context.Context, job handlers.Job, out io.Writer, verb string, args ...string) error {
	return r.Client.Call(ctx, helper.Request{
		Verb: verb, Args: args, Deployment: job.Deployment, DeliveryID: job.DeliveryID, Actor: job.Actor,
	}, out)
}
