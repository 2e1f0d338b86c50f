package archive

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// model is section 2.1 of RFC 6962, word for word.
type model struct{ leaves [][32]byte }

func (m *model) hash() [32]byte {
	n := len(m.leaves)
	switch n {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return m.leaves[0]
	}
	k := 1
	for 2*k < n {
		k *= 2
	}
	left, right := (&model{m.leaves[:k]}).hash(), (&model{m.leaves[k:]}).hash()
	return sha256.Sum256(fmt.Appendf(nil, "\x01%s%s", left[:], right[:]))
}

func leafOf(e *eventlog.Event) [32]byte {
	return sha256.Sum256(eventlog.AppendLeaf([]byte{0}, e))
}

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
