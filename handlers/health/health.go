// Package health is the last step of a deploy: it asks the app itself, until it is
// healthy or the time is over. Programs that start apps call some of them running
// that are broken.
package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/handlers/source"
	"github.com/ducompsoc/durhack-deployer/internal/mask"
	"github.com/ducompsoc/durhack-deployer/internal/names"
	"github.com/ducompsoc/durhack-deployer/internal/retry"
)

// Config is how a deployment is asked. It was checked where it was read.
type Config struct {
	// URL is asked, or Command is run in Dir, relative to the deployment's path.
	URL     string
	Command []string
	Dir     string
	// Status is the one that is healthy; 0 is each from 200 to 299. Text has to be in
	// the answer's body.
	Status int
	Text   string
	// Timeout bounds all of it; the answers are Interval apart. So many Successes, one
	// after another, are healthy.
	Timeout, Interval time.Duration
	Successes         int
}

const (
	requestTimeout = 10 * time.Second
	maxBody        = 1 << 20 // in which Text is looked for
	shown          = 200     // characters
)

// Checked makes h's plans end with the step health.
func Checked(h handlers.Handler, src source.Source, cfg Config) handlers.Handler {
	return checked{h, src, cfg}
}

type checked struct {
	handlers.Handler
	src source.Source
	cfg Config
}

func (h checked) Plan(ctx context.Context, job handlers.Job) (handlers.Plan, error) {
	plan, err := h.Handler.Plan(ctx, job)
	if err != nil {
		return plan, err
	}
	step := handlers.Step{Name: names.StepHealth, Describe: "ask " + mask.URL(h.cfg.URL), Run: h.cfg.request}
	if len(h.cfg.Command) > 0 {
		step = h.src.Program(names.StepHealth, h.cfg.Dir, 0, nil, h.cfg.Command...)
	}
	step.Describe = fmt.Sprintf("%s until it is healthy, for at most %s", step.Describe, h.cfg.Timeout)
	ask := step.Run
	step.Run = func(ctx context.Context, env handlers.Env) error { return h.cfg.await(ctx, env, ask) }
	plan.Steps = append(plan.Steps[:len(plan.Steps):len(plan.Steps)], step)
	return plan, nil
}

// await asks until the answers are healthy. Its error has the last answer.
func (c Config) await(ctx context.Context, env handlers.Env, ask func(context.Context, handlers.Env) error) error {
	limited, cancel := context.WithTimeoutCause(ctx, c.Timeout, &handlers.TimeoutError{After: c.Timeout})
	defer cancel()
	var last error
	for healthy := 0; ; {
		err := ask(limited, env)
		switch {
		case err == nil:
			if healthy++; healthy >= c.Successes {
				return nil
			}
		case last == nil && healthy == 0 || limited.Err() == nil: // else the answer before it says more
			if last == nil || last.Error() != err.Error() {
				env.Say("not healthy: %v", err)
			}
			healthy, last = 0, err
		}
		if limited.Err() == nil && retry.Sleep(limited, c.Interval) {
			continue
		}
		switch {
		case ctx.Err() != nil && last == nil:
			return context.Cause(ctx)
		case ctx.Err() != nil: // how an earlier program ended is not how the step did
			return fmt.Errorf("%w; the last answer that was not healthy: %s", context.Cause(ctx), last.Error())
		case healthy > 0:
			return fmt.Errorf("healthy in a row only %d of %d times within %s%s", healthy, c.Successes, c.Timeout, before(last))
		}
		return fmt.Errorf("not healthy within %s: %w", c.Timeout, last)
	}
}

// before is the last answer that was not healthy, if there was one.
func before(last error) string {
	if last == nil {
		return ""
	}
	return "; before that: " + last.Error()
}

// client asks the app itself: no proxy, no other place that it names, no connection
// of an earlier request.
var client = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// request asks URL once.
func (c Config) request(ctx context.Context, env handlers.Env) error {
	limit := min(requestTimeout, c.Timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", limit))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		return fmt.Errorf("ask for its health: %w", err)
	}
	req.Header.Set("User-Agent", "durhack-deployer")
	if err := c.answer(req, env); err != nil {
		return fmt.Errorf("%s %w", mask.URL(c.URL), err)
	}
	return nil
}

// answer is nil where the answer is healthy.
func (c Config) answer(req *http.Request, env handlers.Env) error {
	why := func(err error) error {
		if cause := context.Cause(req.Context()); cause != nil {
			return cause
		}
		if failed, ok := errors.AsType[*url.Error](err); ok {
			return failed.Err // the rest of it is the URL as it is
		}
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("did not answer: %w", why(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	answered := "answered " + resp.Status
	if to := resp.Header.Get("Location"); to != "" {
		answered += fmt.Sprintf(" to %.*q", shown, env.Masked(mask.URL(to)))
	}
	if len(body) > 0 {
		answered += fmt.Sprintf(", %.*q", shown, env.Masked(string(body)))
	}
	switch {
	case c.Status != 0 && resp.StatusCode != c.Status:
		return fmt.Errorf("%s; %d is healthy", answered, c.Status)
	case c.Status == 0 && resp.StatusCode/100 != 2:
		return errors.New(answered)
	case err != nil:
		return fmt.Errorf("%s, and then no more: %w", answered, why(err))
	case !strings.Contains(string(body), c.Text):
		return fmt.Errorf("%s; %q is not in it", answered, c.Text)
	}
	return nil
}
