package check

import (
	"context"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
)

// pm2 looks at the programs of the deployments whose apps run under pm2, and at pm2's daemons.
func (d *doctor) pm2(ctx context.Context) {
	for _, slug := range d.cfg.Slugs() {
		dep := d.cfg.Deployments[slug]
		if !dep.Enabled || dep.Handler != config.HandlerPM2 {
			continue
		}
		as, _ := daemon.As(dep) // the configuration is refused where there is none
		leave := as.Enter()
		found, problems := daemon.PM2(d.cfg, dep).Inspect(ctx, handlers.Env{As: as, Vars: daemon.Environment(d.cfg, dep)})
		leave()
		for _, p := range problems {
			level := Warn
			if p.Fatal {
				level = Fail
			}
			d.say(level, p.Advice, "%s: %s", slug, p.Text)
		}
		if len(problems) == 0 {
			d.say(OK, "", "%s: %s", slug, found)
		}
	}
}
