package check

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/internal/daemon"
)

func (d *doctor) daemon(ctx context.Context) {
	held, err := daemon.WorkerRuns(d.cfg)
	switch {
	case err != nil:
		d.say(Warn, "run this as the user that the daemon runs as", "cannot tell whether a worker runs: %v", err)
	case held:
		d.say(OK, "", "a worker runs on %s", d.cfg.StateDir)
		d.readiness(ctx)
	default:
		d.say(Warn, "start `serve` or `work` (systemctl start durhack-deployer)", "no worker runs on %s: pushes wait", d.cfg.StateDir)
	}
	at := d.cfg.Listen
	if at.Port == 0 || len(d.cfg.Secrets) == 0 {
		return // its address is not known here, or it is not this configuration's
	}
	resp, err := daemon.AskHost(ctx, at, "/healthz")
	if err != nil {
		d.say(Warn, "start `serve` or `listen`: GitHub does not send again by itself what was not accepted; `recover` finds it", "nothing accepts webhooks: %v", err)
		return
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		d.say(Warn, "is it another program? set [listen] port", "%s answers %s", resp.Request.URL, resp.Status)
		return
	}
	d.say(OK, "", "webhooks are accepted at %s", at)
}

// requests looks at what the listener refused lately: GitHub does not send it again by itself.
func (d *doctor) requests(context.Context) {
	counts, err := daemon.Refused(d.cfg)
	if err != nil {
		d.say(Warn, "run this as the user that the daemon runs as", "%s", oneLine(err))
		return
	}
	total, reasons := 0, []string{}
	for _, reason := range slices.Sorted(maps.Keys(counts)) {
		total += counts[reason]
		reasons = append(reasons, fmt.Sprintf("%d %s", counts[reason], reason))
	}
	if total == 0 {
		d.say(OK, "", "no webhook was refused in the last hour")
		return
	}
	d.say(Warn, "HTTP answers in docs/operations.md says what each means; the log of the daemon has a line for each, with the delivery ID that it claimed: redeliver those that were GitHub's",
		"%s refused in the last hour: %s", counted(total, "webhook"), strings.Join(reasons, ", "))
}

// readiness asks the worker itself what keeps it from working.
func (d *doctor) readiness(ctx context.Context) {
	if d.cfg.Admin.Port == 0 {
		return // only the worker's log has the address
	}
	reasons, recovery, err := daemon.Reasons(ctx, d.cfg)
	if err != nil {
		d.say(Warn, "deploys go on without them; does another program have the address? end that, or change [admin] host or port and restart (journalctl -u durhack-deployer says more)",
			"the admin pages do not answer: %s", oneLine(err))
		return
	}
	for _, reason := range reasons {
		d.say(Fail, "the worker's log says more (journalctl -u durhack-deployer)", "the worker says: %s", oneLine(errors.New(reason)))
	}
	for _, trouble := range recovery.Troubles {
		d.say(Warn, "pushes that GitHub delivers go live all the same; it is asked again by itself", "pushes that GitHub did not deliver cannot be found: %s", oneLine(errors.New(trouble)))
	}
}
