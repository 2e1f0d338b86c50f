// Package router decides what becomes of each delivery: decide.go is the
// decision, without I/O; router.go takes deliveries from the main queue and
// appends what was decided.
package router

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/delivery"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

// Rule is the router's view of one configured deployment.
type Rule struct {
	Slug string
	// Repository is "owner/name"; GitHub's names do not tell upper from lower case.
	Repository string
	Branch     string
	Enabled    bool
	// ConfigDigest identifies the deployment's configuration; it is copied into
	// what is forwarded.
	ConfigDigest string
}

// Decision is what becomes of a delivery: either Forwards (one or more, sorted
// by deployment) or Void is set, never both.
type Decision struct {
	// Received is complete but for Entry, which the queue knows.
	Received eventlog.Received
	Actor    string
	Forwards []eventlog.Assignment
	Void     *eventlog.Voided

	push payload
}

const (
	eventPush = "push"
	eventPing = "ping"

	headsPrefix = "refs/heads/"
	tagsPrefix  = "refs/tags/"
	// mergeQueuePrefix starts the branches that GitHub's merge queue makes and
	// deletes by itself.
	mergeQueuePrefix = "gh-readonly-queue/"

	// maxText bounds, in bytes, each text that a sender chose and that is stored
	// outside the payload.
	maxText = 255
	// maxRef is what a ref can have in bytes at GitHub: a branch of 255.
	maxRef = len(headsPrefix) + 255
	// maxDetail bounds a void's detail, in bytes.
	maxDetail = 1000

	unknownActor = "unknown"
	commandRule  = "deploy command"
)

// Decide says what becomes of d. It is total: any event name and any body end
// in a decision. It depends on nothing but its arguments, and not on the order
// of rules.
func Decide(d delivery.Delivery, rules []Rule) Decision {
	out := Decision{
		Received: eventlog.Received{
			Event:         bounded(d.Event),
			HookID:        bounded(d.HookID),
			ReceivedAt:    d.ReceivedAt,
			PayloadDigest: d.Digest(),
			PayloadSize:   int64(len(d.Body)),
			ContentType:   bounded(d.ContentType),
			Source:        eventlog.Source(bounded(d.Source)),
		},
	}
	p, parseErr := parsePayload(d)
	out.push = p
	out.Actor = p.actor()
	if fromCommand(d) || found(d.Source, d.HookID) {
		out.Actor = actorName(d.Actor)
	}
	switch {
	case d.Event == eventPing:
		out.Received.Repository = bounded(p.repository)
		out.Void = void(eventlog.ReasonPing, "a ping only tests the webhook; a push would be deployed")
	case d.Event != eventPush:
		out.Void = void(eventlog.ReasonEventNotHandled,
			"event %s is not handled; only push events are deployed", show(d.Event))
	case parseErr != nil:
		out.Void = void(eventlog.ReasonMalformed, "%v", parseErr)
	default:
		out.decidePush(d, p, canonical(rules))
	}
	return out
}

// fromCommand says whether the deploy command made d. Only then are its own
// Actor, Deployment, Forced, Override and Reason trusted.
func fromCommand(d delivery.Delivery) bool { return d.Source == string(eventlog.SourceCLI) }

// found says whether recovery made the delivery, of a tip that it found by asking the
// remote: the log had no push of it. Only then are its own Actor, and the deployments that
// its body names, heeded. What GitHub has sent again because recovery asked for it has a hook.
func found[S ~string](source S, hookID string) bool {
	return eventlog.Source(source) == eventlog.SourceRecovery && hookID == ""
}

func (out *Decision) decidePush(d delivery.Delivery, p payload, rules []Rule) {
	out.Received.Ref = truncate(p.ref, maxRef)
	out.Received.Repository = bounded(p.repository)
	if problem := p.check(); problem != "" {
		out.Void = void(eventlog.ReasonMalformed, "%s", problem)
		return
	}
	if !p.deletes() {
		out.Received.Commit = p.commit()
	}
	if fromCommand(d) {
		out.command(d, p, rules)
	} else {
		if found(d.Source, d.HookID) {
			rules = slices.DeleteFunc(rules, func(r Rule) bool { return !slices.Contains(p.only, r.Slug) })
		}
		out.branch(p, rules)
	}
	if out.Void != nil {
		out.Void.Commit = out.Received.Commit
	}
}

// branch forwards a push to every enabled deployment of its repository and branch.
func (out *Decision) branch(p payload, rules []Rule) {
	branch, ok := strings.CutPrefix(p.ref, headsPrefix)
	if !ok {
		what := "not a branch"
		if strings.HasPrefix(p.ref, tagsPrefix) {
			what = "a tag"
		}
		out.Void = void(eventlog.ReasonNotABranch, "%s is %s; only pushes to refs/heads/... are deployed", show(p.ref), what)
		return
	}
	if p.deletes() {
		out.Void = void(eventlog.ReasonBranchDeleted,
			"the push deleted branch %s, so there is no commit to deploy; a push of a commit to it would be looked at", quote(branch))
		return
	}
	var matching, elsewhere []Rule
	for _, r := range rules {
		switch {
		case !SameRepository(r.Repository, p.repository):
		case r.Branch == branch:
			matching = append(matching, r)
		default:
			elsewhere = append(elsewhere, r)
		}
	}
	var disabled []string
	for _, r := range matching {
		if !r.Enabled {
			disabled = append(disabled, show(r.Slug))
			continue
		}
		out.Forwards = append(out.Forwards, eventlog.Assignment{Deployment: r.Slug, Attempt: 1, Order: eventlog.Order{Branch: branch, Commit: p.commit(), Before: p.movedFrom(), ForcedFrom: p.forcedFrom(), ConfigDigest: r.ConfigDigest, Rule: fmt.Sprintf("%s %s -> %s", show(p.repository), show(p.ref), show(r.Slug))}})
	}
	switch {
	case len(out.Forwards) > 0:
	case len(disabled) > 0:
		out.Void = void(eventlog.ReasonDeploymentDisabled,
			"%s deploys %s at branch %s but is disabled; it would run with enabled = true",
			strings.Join(disabled, ", "), show(p.repository), quote(branch))
	default:
		out.Void = noDeployment(p.repository, branch, elsewhere, rules)
	}
}

func noDeployment(repository, branch string, elsewhere, all []Rule) *eventlog.Voided {
	detail := fmt.Sprintf("no deployment is configured for %s at branch %s", show(repository), quote(branch))
	if strings.HasPrefix(branch, mergeQueuePrefix) {
		detail += ", a temporary branch of GitHub's merge queue (what is merged comes as a push of its own)"
	}
	var known []string
	switch {
	case len(elsewhere) > 0:
		for _, r := range elsewhere {
			known = append(known, show(r.Branch)+" ("+label(r, ", disabled")+")")
		}
		detail += fmt.Sprintf("; %s deploys from: %s", show(repository), strings.Join(known, ", "))
	case len(all) > 0:
		for _, r := range all {
			if repo := show(r.Repository); !slices.Contains(known, repo) {
				known = append(known, repo)
			}
		}
		slices.Sort(known)
		detail += "; repositories that are deployed: " + strings.Join(known, ", ")
	default:
		detail += "; no deployment is configured at all"
	}
	return void(eventlog.ReasonNoDeployment, "%s", detail)
}

// command forwards what the deploy command asked for to the deployment that it
// named, whichever branch that deploys from.
func (out *Decision) command(d delivery.Delivery, p payload, rules []Rule) {
	i := slices.IndexFunc(rules, func(r Rule) bool { return r.Slug == d.Deployment })
	if i < 0 {
		var known []string
		for _, r := range rules {
			known = append(known, label(r, " (disabled)"))
		}
		have := "no deployment is configured at all"
		if len(known) > 0 {
			have = "configured are: " + strings.Join(known, ", ")
		}
		out.Void = void(eventlog.ReasonNoDeployment, "there is no deployment %s; %s", quote(d.Deployment), have)
		return
	}
	r := rules[i]
	switch {
	case !r.Enabled:
		out.Void = void(eventlog.ReasonDeploymentDisabled, "deployment %s is disabled; it would run with enabled = true", show(r.Slug))
	case !SameRepository(r.Repository, p.repository):
		out.Void = void(eventlog.ReasonNoDeployment,
			"deployment %s deploys %s, but the command was given for %s; run the deploy command again with today's configuration",
			show(r.Slug), show(r.Repository), show(p.repository))
	case p.deletes():
		out.Void = void(eventlog.ReasonBranchDeleted, "%s names no commit, so there is nothing to deploy", show(p.ref))
	default:
		// A tag or a bare hash is fetched by its hash; the branch is then the one
		// that the deployment follows.
		branch, ok := strings.CutPrefix(p.ref, headsPrefix)
		if !ok {
			branch = r.Branch
		}
		rule := commandRule
		if d.Override {
			rule += ", whatever is frozen or pinned: " + show(d.Reason)
		}
		out.Forwards = []eventlog.Assignment{{Deployment: r.Slug, Attempt: 1, Order: eventlog.Order{
			Branch: branch, Commit: p.commit(), Rule: rule, ConfigDigest: r.ConfigDigest, Forced: d.Forced, Override: d.Override,
		}}}
	}
}

// canonical sorts rules by slug and keeps one of each slug, so that a decision
// depends on no order and forwards to no deployment twice.
func canonical(rules []Rule) []Rule {
	sorted := slices.Clone(rules)
	slices.SortFunc(sorted, func(a, b Rule) int {
		return strings.Compare(a.Slug, b.Slug)
	})
	return slices.CompactFunc(sorted, func(a, b Rule) bool { return a.Slug == b.Slug })
}

// SameRepository compares by ASCII case only: folding by Unicode would let a
// Kelvin sign pass for a k.
func SameRepository(a, b string) bool {
	return lowerASCII(a) == lowerASCII(b)
}

func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func label(r Rule, disabled string) string {
	if r.Enabled {
		return show(r.Slug)
	}
	return show(r.Slug) + disabled
}

func void(reason eventlog.Reason, format string, args ...any) *eventlog.Voided {
	return &eventlog.Voided{
		Reason: reason, Detail: truncate(fmt.Sprintf(format, args...), maxDetail),
	}
}

// show returns text that a sender chose as a person should read it: as it is
// where it is plain, quoted where it could be taken for something else.
func show(s string) string {
	plain := s != ""
	for _, r := range s {
		if r <= ' ' || r > '~' || r == '"' || r == '\\' {
			plain = false
			break
		}
	}
	if plain {
		return truncate(s, maxText)
	}
	return quote(s)
}

func quote(s string) string { return fmt.Sprintf("%q", truncate(s, maxText)) }

func bounded(s string) string { return truncate(strings.ToValidUTF8(s, "\uFFFD"), maxText) }

func truncate(s string, limit int) string { return words.Cut(s, limit, "...") }
