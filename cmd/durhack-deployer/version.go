package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/ducompsoc/durhack-deployer/internal/words"
	"github.com/ducompsoc/durhack-deployer/migrations"
)

type versionInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	// Schema is the version of the database's schema that the binary works with.
	Schema int `json:"schema"`
}

// commit is set by -ldflags "-X main.commit=HASH" where a deployer builds its successor.
var commit string

// version is what the Go toolchain stamped into the binary.
func version() versionInfo {
	v := versionInfo{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Schema, _ = migrations.Version() // the embedded ones can be read
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.time":
			v.Time = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	if commit != "" {
		v.Revision = commit
	}
	return v
}

// String is the line that `version` prints.
func (v versionInfo) String() string {
	built := "built without version control"
	if v.Revision != "" {
		built = "commit " + words.ShortCommit(v.Revision)
		if v.Modified {
			built += " with changes"
		}
	}
	return fmt.Sprintf("durhack-deployer %s (%s) %s %s", v.Version, built, v.Go, v.Platform)
}

func (c *cli) versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "version [--json]", Short: "Print the version and the commit it was built from", Args: takes(),
		RunE: func(*cobra.Command, []string) error {
			v := version()
			if asJSON {
				return writeJSON(c.out, v)
			}
			_, err := fmt.Fprintln(c.out, v)
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
