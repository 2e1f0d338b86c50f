package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/handlers"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/daemon"
)

func (c *cli) planCommand() *cobra.Command {
	var ref string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "plan SLUG [--ref REF] [--json]", Short: "Print the steps that a deploy would run, without running them",
		Long: `Prints the plan of a deployment for a branch, tag or commit hash (default: the
tip of its branch). The remote is asked for the commit; nothing else is done.`,
		Example: `  durhack-deployer plan web
  durhack-deployer plan web --ref v1.2.0`,
		Args: takes("SLUG"), ValidArgsFunction: c.completeSlug,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			d, err := answer.Deployment(cfg, args[0])
			if err != nil {
				return err
			}
			handler, err := daemon.Handler(cfg, d)
			if err != nil {
				return err
			}
			commit, err := c.commit(cmd.Context(), cfg, d, ref)
			if err != nil {
				return err
			}
			plan, err := handler.Plan(cmd.Context(), handlers.Job{
				Deployment: d.Slug, Repository: d.Repository, Branch: d.Branch, Commit: commit, Path: d.Path, Actor: actor(),
			})
			if err != nil {
				return err
			}
			return c.printPlan(d, commit, plan, asJSON)
		},
	}
	cmd.Flags().StringVar(&ref, "ref", "", "`REF` to plan for: a branch, a tag or a commit hash")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// planRow is a line of `plan --json`.
type planRow struct {
	Step      int      `json:"step"`
	Name      string   `json:"name"`
	Run       []string `json:"run,omitempty"`
	User      string   `json:"user,omitempty"` // as whom, where the configuration says so
	Describe  string   `json:"describe,omitempty"`
	TimeoutMS int64    `json:"timeout_ms,omitempty"`
}

func (c *cli) printPlan(d *config.Deployment, commit string, plan handlers.Plan, asJSON bool) error {
	user := func(s handlers.Step) string {
		if len(s.Root) > 0 && len(s.Argv) == 0 { // root does it
			return ""
		}
		return d.User
	}
	if asJSON {
		for i, s := range plan.Steps {
			if err := writeJSON(c.out, planRow{i + 1, s.Name, s.Argv, user(s), s.Describe, s.Timeout.Milliseconds()}); err != nil {
				return err
			}
		}
		return nil
	}
	as := ""
	if d.User != "" {
		as = " as " + d.User
	}
	fmt.Fprintf(c.out, "%s at %s would run%s:\n", d.Slug, commit, as)
	t := c.newTable(column{}, column{name: "STEP"}, column{name: "TIMEOUT", drop: 1}, column{name: "RUNS", text: true})
	for i, s := range plan.Steps {
		timeout, runs := "-", s.Describe
		if s.Timeout > 0 {
			timeout = s.Timeout.String()
		}
		if len(s.Argv) > 0 {
			runs = quoteArgv(s.Argv)
		}
		t.row(fmt.Sprint(i+1), s.Name, timeout, runs)
	}
	return t.flush()
}
