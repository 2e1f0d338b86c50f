package nginx

import (
	"slices"
	"strings"
)

// Rule is one filter; the last that selects a site decides, and a site that none
// selects is excluded.
type Rule struct {
	Include bool
	// Select are names of sites, or "*" for all.
	Select []string
}

func included(rules []Rule, site string) bool {
	in := false
	for _, r := range rules {
		if slices.Contains(r.Select, "*") || slices.Contains(r.Select, site) {
			in = r.Include
		}
	}
	return in
}

const disabledSuffix = ".disabled"

// fileName is what the name of a file in the directory of sites says.
type fileName struct {
	// site is NAME of "[NAME].nginxconf" and "[NAME].conf", each also with
	// ".disabled"; empty for the files that are no site's, which no filter is asked about.
	site string
	// enabled says that nginx's globs, *.conf and *.nginxconf, take the file.
	enabled bool
}

func parseName(name string) fileName {
	stem, disabled := strings.CutSuffix(name, disabledSuffix)
	for _, suffix := range []string{".nginxconf", ".conf"} {
		inner, conf := strings.CutSuffix(stem, suffix)
		if !conf {
			continue
		}
		f := fileName{enabled: !disabled}
		if len(inner) > 2 && inner[0] == '[' && inner[len(inner)-1] == ']' {
			f.site = inner[1 : len(inner)-1]
		}
		return f
	}
	return fileName{}
}
