package archive

import (
	"strings"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

func TestLeafIsAsDocumented(t *testing.T) {
	t.Parallel()
	slug := "w\u00e9b"
	e := eventlog.Event{
		Position: 12, ID: "01J00000000000000000000000", Instance: "prod", DeliveryID: "d:1,", Type: eventlog.TypeVoided,
		Deployment: &slug, Attempt: 3, RecordedAt: time.Unix(1767225600, 123456000), Data: []byte(`{"v": 1}`),
	}
	want := strings.Join([]string{
		"25:durhack-deployer/event/v1", "2:12", "26:01J00000000000000000000000", "4:prod", "4:d:1,", "6:voided", "4:w\u00e9b", "1:3", "0:",
		"16:1767225600123456", `8:{"v": 1}`, "",
	}, ",")
	if got := string(eventlog.AppendLeaf(nil, &e)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
