package handlers

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/process"
)

// fakeRoot notes the calls, and refuses to do anything with a unit that is called broken.
type fakeRoot struct{ calls []string }

func (r *fakeRoot) Call(_ context.Context, job Job, out io.Writer, verb string, args ...string) error {
	call := verb + " " + strings.Join(args, " ")
	r.calls = append(r.calls, job.Deployment+": "+call)
	if out != nil {
		fmt.Fprintln(out, "did", call)
	}
	if slices.Contains(args, "broken.service") {
		return &process.ExitError{Program: call, Code: 5}
	}
	return nil
}

type fixed struct{ plan Plan }

func (f fixed) Plan(context.Context, Job) (Plan, error) { return f.plan, nil }

func TestEnding_UnitsAreRestartedAndThenReloadedLast(t *testing.T) {
	t.Parallel()
	job, root := Job{Deployment: "web"}, &fakeRoot{}
	plan, err := Ending(fixed{Plan{Steps: []Step{step("build", nothing)}}}, []string{"app.service", "broken.service"}, []string{"nginx.service"}).Plan(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"build", "restart app.service", "restart broken.service", "reload nginx.service"}; !slices.Equal(plan.Names(), want) {
		t.Errorf("the plan is %q, want %q", plan.Names(), want)
	}
	env := testEnv
	var out strings.Builder
	env.Root, env.Job, env.Out = root, job, &out
	r := Execute(t.Context(), plan, env, nil)
	if r.FailedStep != "restart broken.service" || r.ExitCode == nil || *r.ExitCode != 5 {
		t.Errorf("result %+v", r)
	}
	if want := []string{"web: restart app.service", "web: restart broken.service"}; !slices.Equal(root.calls, want) {
		t.Errorf("root was asked %q, want %q", root.calls, want)
	}
	if !strings.HasPrefix(out.String(), "did restart app.service\n") {
		t.Errorf("the output is %q", out.String())
	}
}

func TestAsRoot_SaysWhatToDoWhereNothingIsRoot(t *testing.T) {
	t.Parallel()
	err := testEnv.AsRoot(t.Context(), nil, "nginx-test")
	if err == nil || !strings.Contains(err.Error(), "docs/handlers/helper.md") {
		t.Errorf("the error is %v", err)
	}
}
