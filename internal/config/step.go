package config

import (
	"fmt"
	"strings"
)

func (t table) steps() []Step {
	n := t.get("steps")
	if n == nil {
		return nil
	}
	if len(n.list) == 0 {
		t.record("steps", []string{}, n)
	}
	var steps []Step
	names := map[string]bool{}
	for i, element := range n.list {
		step := table{reader: t.reader, node: element, name: fmt.Sprintf("%s[%d]", join(t.name, "steps"), i)}
		s := Step{
			Name:    step.required("name", `name = "build"`, validStepName),
			Dir:     step.optional("dir", validStepDir),
			Timeout: step.duration("timeout", 0),
		}
		if s.Name != "" && names[s.Name] {
			step.fail(step.get("name"), "name", fmt.Sprintf("%s.name %q is the name of an earlier step", step.name, s.Name), "give each step a name of its own")
		}
		names[s.Name] = true
		s.Run = step.run()
		if step.get("env") != nil {
			s.Env = step.sub("env").assignments()
		}
		steps = append(steps, s)
	}
	return steps
}

func (t table) run() []string {
	run, nodes := t.strings("run")
	n := t.get("run")
	switch {
	case n == nil && !t.has("run"):
		t.failAt(t.node.at, t.name+".run", fmt.Sprintf("%s has no run", header(t.name)), `add run = ["program", "argument"]`)
	case n == nil: // reported as not a list of strings
	case len(run) == 0 || run[0] == "":
		t.fail(n, "run", t.name+".run names no program", `write run = ["program", "argument"]`)
	default:
		for i, argument := range run {
			if strings.ContainsRune(argument, 0) {
				t.fail(nodes[i], "run", fmt.Sprintf("%s.run[%d] has a NUL character, which no program can be given", t.name, i), "")
			}
		}
		if len(run) == 1 && strings.ContainsAny(run[0], " \t") {
			t.warn(n.at, t.name+".run", fmt.Sprintf("%s.run is one word with spaces in it, %q: there is no shell that would split it; write each argument as an element of its own", t.name, run[0]))
		}
		t.record("run", run, n)
	}
	return run
}
