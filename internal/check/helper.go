package check

import (
	"context"
	"strings"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
	"github.com/ducompsoc/durhack-deployer/internal/helper"
)

// helper asks the helper, for all that the plans of enabled deployments have root do,
// whether it would.
func (d *doctor) helper(ctx context.Context) {
	asked, refused := map[string]bool{}, false
	for _, slug := range d.cfg.Slugs() {
		dep := d.cfg.Deployments[slug]
		h, err := daemon.Handler(d.cfg, dep)
		if err != nil || !dep.Enabled {
			continue
		}
		plan, err := h.Plan(ctx, handlers.Job{
			Deployment: slug, Repository: dep.Repository, Branch: dep.Branch, Commit: strings.Repeat("0", 40), Path: dep.Path,
		})
		if err != nil {
			d.say(Warn, "", "%s: what it has root do cannot be told: %s", slug, oneLine(err))
			continue
		}
		for _, step := range plan.Steps {
			for _, call := range step.Root {
				key := strings.Join(call, " ")
				if len(dep.NginxCommand) > 0 { // it is not the helper that does it
					key += " for " + slug
				}
				if asked[key] {
					continue
				}
				asked[key] = true
				request := helper.Request{Verb: call[0], Args: call[1:], Dry: true, Deployment: slug}
				if err := daemon.Root(d.cfg, dep).Call(ctx, request, nil); err != nil {
					refused = true
					d.say(Fail, "docs/handlers/helper.md says how root allows it", "step %q of %s: %s", step.Name, slug, oneLine(err))
				}
			}
		}
	}
	switch {
	case len(asked) == 0:
		d.say(OK, "", "nothing needs root")
	case !refused:
		d.say(OK, "", "root would do %s", counted(len(asked), "thing"))
	}
}
