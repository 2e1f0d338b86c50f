package names

import (
	"slices"
	"strings"
)

// Unit says whether s may name a unit of systemd: no option, and no path.
func Unit(s string) bool {
	return of(letters+digits+`:_.@\-`, s, 1, 255) && s[0] != '-'
}

// unitKinds end the names of units.
var unitKinds = []string{".service", ".socket", ".target", ".timer", ".path", ".mount", ".automount", ".swap", ".slice", ".scope", ".device"}

// WholeUnit is the name as systemd completes it: a service where it does not say.
func WholeUnit(s string) string {
	if slices.ContainsFunc(unitKinds, func(kind string) bool { return strings.HasSuffix(s, kind) }) {
		return s
	}
	return s + ".service"
}
