package main

import (
	"io"
	"strings"
	"sync"

	"github.com/spf13/cobra"
)

type streams struct {
	in       io.Reader
	out, err io.Writer
}

// cli is what every verb shares.
type cli struct {
	streams
	configPaths []string
	verbose     bool
	wide        bool

	mu       sync.Mutex
	onGiveUp func()
}

// The groups of commands in `--help`.
const (
	groupRun  = "run"
	groupAsk  = "ask"
	groupAct  = "act"
	groupKeep = "keep"
)

func newRoot(c *cli, args []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "durhack-deployer COMMAND",
		Short: "Deploy apps when they are pushed to GitHub, and say what is live and why",
		Long: `durhack-deployer deploys a team's apps when they push to GitHub, and answers
what is live, who put it there, when, and why a push did or did not deploy.

Without --config, the *.toml files of /etc/durhack-deployer/ are read, or else
those of ./config/. Exit codes: 0 done, 1 it failed, 2 the call was wrong,
3 "replay --simulate" found decisions that would change.`,
		Example: `  durhack-deployer demo                 see it work; needs nothing but git
  durhack-deployer serve                run it
  durhack-deployer status               what is live?
  durhack-deployer why DELIVERY         why did, or didn't, that push deploy?`,
		Version:       version().String(),
		SilenceErrors: true, SilenceUsage: true,
		Args:              cobra.ArbitraryArgs,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return emptyFlag(cmd) },
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				cmd.SetOut(c.err)
				_ = cmd.Help()
				return usagef("missing COMMAND: use one of the commands above")
			}
			return unknownCommand(cmd, args[0])
		},
	}
	root.SetArgs(args)
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(flagError)
	root.SetUsageTemplate(usageTemplate)
	root.SetVersionTemplate("{{.Version}}\n")
	root.PersistentFlags().StringArrayVar(&c.configPaths, "config", nil, "read the configuration from this `FILE` or directory; repeat to merge several, later ones win")
	root.PersistentFlags().BoolVarP(&c.verbose, "verbose", "v", false, "say more on standard error")

	root.PersistentFlags().BoolVar(&c.wide, "wide", false, "print tables whole, however wide: whole IDs, and every column")

	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run it:"},
		&cobra.Group{ID: groupAsk, Title: "Ask it:"},
		&cobra.Group{ID: groupAct, Title: "Make it act:"},
		&cobra.Group{ID: groupKeep, Title: "Keep it in order:"},
	)
	for _, g := range []struct {
		id   string
		cmds []*cobra.Command
	}{
		{groupRun, []*cobra.Command{c.demoCommand(), c.serveCommand(), c.listenCommand(), c.workCommand(), c.helperCommand()}},
		{groupAsk, []*cobra.Command{c.statusCommand(), c.whyCommand(), c.logCommand(), c.logsCommand(), c.historyCommand(), c.reportCommand(), c.metricsCommand(), c.planCommand(), c.proveCommand()}},
		{groupAct, []*cobra.Command{c.deployCommand(), c.rollbackCommand(), c.pinCommand(), c.unpinCommand(), c.freezeCommand(), c.thawCommand(), c.cancelCommand(), c.loginCommand(), c.replayCommand(), c.recoverCommand(), c.redactCommand()}},
		{groupKeep, []*cobra.Command{c.doctorCommand(), c.configCommand(), c.notifyCommand(), c.migrateCommand(), c.verifyCommand(), c.backupCommand(), c.restoreCommand(), c.keygenCommand(), c.checkpointCommand(), c.queueCommand(), c.projectionsCommand()}},
		{"", []*cobra.Command{c.versionCommand()}},
	} {
		for _, cmd := range g.cmds {
			cmd.GroupID = g.id
			root.AddCommand(cmd)
		}
	}
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(args...)
	for _, cmd := range allCommands(root) {
		cmd.DisableFlagsInUseLine = true
		cmd.SuggestionsMinimumDistance = root.SuggestionsMinimumDistance
		switch cmd.Name() {
		case "help":
			cmd.RunE, cmd.Run = func(_ *cobra.Command, args []string) error { return help(root, args) }, nil
		case "completion":
			cmd.RunE = func(cmd *cobra.Command, args []string) error { return subcommand(cmd, args) }
			cmd.Args = cobra.ArbitraryArgs
		}
	}
	return root
}

func allCommands(root *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{}
	for _, cmd := range root.Commands() {
		all = append(all, cmd)
		all = append(all, allCommands(cmd)...)
	}
	return all
}

// help prints a command's help; cobra's own exits with 0 for an unknown one.
func help(root *cobra.Command, args []string) error {
	cmd, rest, err := root.Find(args)
	if err != nil || cmd == nil || len(rest) > 0 {
		if cmd == nil || cmd == root {
			return unknownCommand(root, args[0])
		}
		return unknownCommand(cmd, rest[0])
	}
	cmd.InitDefaultHelpFlag()
	return cmd.Help()
}

// group makes a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use + " COMMAND", Short: short, Args: cobra.ArbitraryArgs, RunE: subcommand}
	cmd.AddCommand(subs...)
	return cmd
}

// subcommand is the run of a command that only holds others: called bare, or
// with a word that is none of them, it is a wrong call.
func subcommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	return usagef("%q needs one of: %s", cmd.CommandPath(), strings.Join(subNames(cmd), ", "))
}

func subNames(cmd *cobra.Command) []string {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return names
}

// usageTemplate is cobra's, without what a reader does not need: the usage line
// of the bare group, and the global flags of each command told in one line.
const usageTemplate = `Usage:
  {{.UseLine}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{if .HasAvailableSubCommands}}{{$cmds := .Commands}}{{if eq (len .Groups) 0}}

Commands:{{range $cmds}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{else}}{{range $group := .Groups}}

{{.Title}}{{range $cmds}}{{if (and (eq .GroupID $group.ID) .IsAvailableCommand)}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}

Other:{{range $cmds}}{{if (and (eq .GroupID "") (or .IsAvailableCommand (eq .Name "help")))}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Flags of every command:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableSubCommands}}

` + "`{{.CommandPath}} COMMAND --help`" + ` shows more about a command.{{end}}
`
