package daemon

import (
	"context"
	"io"
	"path/filepath"
	"strings"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/helper"
)

// Asker is who is asked for what only root may do.
type Asker interface {
	Call(ctx context.Context, r helper.Request, out io.Writer) error
}

// Root is the helper that the configuration names, or this process where a deployment
// has it run nginx itself.
func Root(cfg *config.Config, d *config.Deployment) Asker {
	if len(d.NginxCommand) == 0 {
		return helper.Client{Socket: cfg.Helper.Socket, Command: cfg.Helper.Command}
	}
	logs := option(d.Certbot, "--logs-dir", "/var/log/letsencrypt")
	nginxLogs := append(d.LogPaths[:len(d.LogPaths):len(d.LogPaths)], "/var/log/nginx")[0]
	return helper.Here{Rules: helper.Rules{
		Nginx: helper.Nginx{Signal: true, Command: d.NginxCommand, ErrorLog: filepath.Join(nginxLogs, "error.log")},
		Certificates: helper.Certificates{
			Names: []string{"*"}, Command: d.Certbot, Authenticator: d.Certificates.Authenticator, Webroot: d.Certificates.Webroot,
			Server: d.Certificates.Server, Email: d.Certificates.Email,
			Live: filepath.Join(certbotDir(d), "live"), Log: filepath.Join(logs, "letsencrypt.log"),
		},
	}}
}

// certbotDir is where certbot keeps what it has.
func certbotDir(d *config.Deployment) string {
	return option(d.Certbot, "--config-dir", "/etc/letsencrypt")
}

// option is the value of an option among the arguments of a program.
func option(argv []string, name, otherwise string) string {
	for i, arg := range argv {
		if value, is := strings.CutPrefix(arg, name+"="); is {
			return value
		}
		if arg == name && i+1 < len(argv) {
			return argv[i+1]
		}
	}
	return otherwise
}

// root is an Asker as handlers ask it.
type root struct{ Asker }

func (r root) Call(ctx context.Context, job handlers.Job, out io.Writer, verb string, args ...string) error {
	return r.Asker.Call(ctx, helper.Request{
		Verb: verb, Args: args, Deployment: job.Deployment, DeliveryID: job.DeliveryID, Actor: job.Actor,
	}, out)
}
