package figures

import (
	"encoding/json"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

func encode(t *testing.T, data eventlog.Data) []byte {
	t.Helper()
	b, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
