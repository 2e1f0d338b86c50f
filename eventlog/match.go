package eventlog

import (
	"encoding/json"
	"slices"
	"strings"
)

// Match says whether the filter chooses e; Limit and Newest, which are about
// many events, aside.
func (f Filter) Match(e Event) bool {
	return e.Position > f.After && (f.Through == 0 || e.Position <= f.Through) &&
		(f.Positions == nil || slices.Contains(f.Positions, e.Position)) &&
		(f.Instance == "" || f.Instance == e.Instance) &&
		(f.DeliveryID == "" || f.DeliveryID == e.DeliveryID) &&
		(f.DeliveryIDs == nil || slices.Contains(f.DeliveryIDs, e.DeliveryID)) &&
		strings.HasPrefix(e.DeliveryID, f.DeliveryPrefix) &&
		(f.Deployment == "" || f.Deployment == e.DeploymentSlug()) &&
		(f.Commit == "" || strings.HasPrefix(commitOf(e), f.Commit)) &&
		(len(f.Types) == 0 || slices.Contains(f.Types, e.Type)) &&
		(f.Since.IsZero() || !e.RecordedAt.Before(f.Since)) &&
		(f.Until.IsZero() || e.RecordedAt.Before(f.Until))
}

// commitOf is the commit that the event's data names, or "".
func commitOf(e Event) string {
	var data struct {
		Commit string `json:"commit"`
	}
	if json.Unmarshal(e.Data, &data) != nil {
		return ""
	}
	return data.Commit
}
