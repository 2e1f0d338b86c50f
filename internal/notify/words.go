package notify

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/links"
	"github.com/ducompsoc/durhack-deployer/internal/sender"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

// maxPayload is the largest body that is read for the subject of a commit.
const maxPayload = 1 << 20

// failed words a failure; canceled says by whom it was canceled, and why, or is "".
func (n *Notifier) failed(ctx context.Context, e *eventlog.Event, d eventlog.Failed, canceled string) sender.Message {
	slug, how, title := e.DeploymentSlug(), "failed", "the deploy failed"
	switch {
	case canceled != "":
		how, title = "was canceled", "the deploy was canceled"
	case d.ExitCode != nil:
		how = fmt.Sprintf("failed with exit code %d", *d.ExitCode)
	case d.Signal != "":
		how = fmt.Sprintf("was ended by %s", d.Signal)
	}
	m := sender.Message{Title: slug + ": " + title}
	inStep(&m, fmt.Sprintf("The deploy of %s %s", slug, how), d.Step)
	if canceled != "" {
		m.Quote("Why:", canceled)
	} else {
		m.Quote("The error:", d.Error)
	}
	n.about(ctx, &m, e, d.Commit)
	n.tryAgain(&m, e)
	m.QuoteLines("The last lines:", d.OutputTail)
	return m
}

// inStep says what happened, and in which step if that is known.
func inStep(m *sender.Message, text, step string) {
	if step == "" {
		m.Say("%s.", text)
	}
	m.Quote(text+" in the step", step)
}

// again is what is said of a window at its end, with all that the newest failure says.
func (w *window) again(m sender.Message) sender.Message {
	times := fmt.Sprintf("%d more times", w.More)
	if w.More == 1 {
		times = "once more"
	}
	last := m.Parts
	m.Title += " " + times
	m.Parts = nil
	m.Say("The same failure has come %s within the hour since %s. The last one:", times, words.UTC(w.Since))
	m.Parts = append(m.Parts, last...)
	return m
}

func (n *Notifier) deployed(ctx context.Context, e *eventlog.Event, d eventlog.Deployed, before *failure) sender.Message {
	slug := e.DeploymentSlug()
	took := (time.Duration(d.DurationMS) * time.Millisecond).Round(100 * time.Millisecond)
	m := sender.Message{Title: slug + ": deployed"}
	if before != nil {
		how := "had failed"
		if before.canceled {
			how = "was canceled"
		}
		m.Title = slug + ": works again"
		inStep(&m, fmt.Sprintf("The deploy of %s works again, and took %s. The one before %s", slug, took, how), before.step)
	} else {
		m.Say("The deploy of %s is live, and took %s.", slug, took)
	}
	n.about(ctx, &m, e, d.Commit)
	if before != nil && d.Commit == d.PreviousCommit {
		m.Say("That is the commit that was live before; the one that failed is not live.")
	}
	if one := n.o.Config.Deployments[slug]; one != nil && one.SiteURL != "" {
		m.Say("Live at %s", one.SiteURL)
	}
	return m
}

func (n *Notifier) interrupted(ctx context.Context, e *eventlog.Event, d eventlog.Interrupted) sender.Message {
	slug := e.DeploymentSlug()
	m := sender.Message{Title: slug + ": the deploy was interrupted"}
	m.Say("The deploy of %s was interrupted.", slug)
	m.Quote("Why:", d.Detail)
	n.about(ctx, &m, e, "")
	if d.Then == "retry" {
		m.Say("It is tried again by itself.")
	} else {
		n.tryAgain(&m, e)
	}
	return m
}

// about says of which commit and by whom, and where there is more.
func (n *Notifier) about(ctx context.Context, m *sender.Message, e *eventlog.Event, commit string) {
	if commit != "" {
		text := "Commit " + commit[:min(len(commit), 12)]
		if subject := cmp.Or(n.subject(ctx, commit), n.o.Subject(ctx, e.DeploymentSlug(), commit)); subject != "" {
			m.Quote(text, subject)
		} else {
			m.Say("%s", text)
		}
	}
	m.Quote("By", e.Actor)
	m.Say("Deployer: %s, %s", e.Instance, words.UTC(e.RecordedAt))
	if link := links.Delivery(n.o.Config.Origin, e.DeliveryID); link != "" {
		m.Say("More: %s", link)
	}
}

func (n *Notifier) tryAgain(m *sender.Message, e *eventlog.Event) {
	m.Say(`To try it again: durhack-deployer replay %s --reason "..." --deployment %s`, e.DeliveryID, e.DeploymentSlug())
}

// subject is the first line of a commit's message, as a push has it; "" where none that
// is stored does.
func (n *Notifier) subject(ctx context.Context, commit string) string {
	const pushes = 3 // a deploy by hand has a delivery, too
	filter := eventlog.Filter{Types: []eventlog.Type{eventlog.TypeReceived}, Commit: commit, Whole: true, Limit: pushes}
	for received, err := range n.o.Log.Find(ctx, filter) {
		named, ok := eventlog.BodyOf(&received)
		if err != nil || !ok || named.Size > maxPayload {
			continue
		}
		p, err := n.o.Log.Payload(ctx, named.Digest)
		if err != nil {
			continue // it was redacted
		}
		for _, c := range delivery.Commits(p.ContentType, p.Body) {
			if c.ID == commit {
				return c.Subject()
			}
		}
	}
	return ""
}

// Hello is what `notify test` sends.
func Hello(cfg *config.Config, entry string) sender.Message {
	m := sender.Message{Title: cfg.Instance + ": a test"}
	m.Say("This is a test of the deployer %s. What [[notify]] %q is told of arrives here.", cfg.Instance, entry)
	if link := links.Home(cfg.Origin); link != "" {
		m.Say("More: %s", link)
	}
	return m
}
