package answer

import (
	"fmt"
	"testing"

	"github.com/ducompsoc/durhack-deployer/eventlog"
)

// Rollbacks to releases that are there build nothing, and say nothing of what a build takes.
func TestDurations_LeaveOutStepsThatHadNothingToDo(t *testing.T) {
	took, web := Durations{}, "web"
	for _, ms := range []int64{9_000, 0, 0, 11_000, 0, 10_000} {
		data := fmt.Appendf(nil, `{"v":1,"commit":"c1","steps":[{"name":"build","duration_ms":%d,"result":"ok"},{"name":"switch","duration_ms":3,"result":"ok"}]}`, ms)
		if err := took.Add(eventlog.Event{Type: eventlog.TypeDeployed, Deployment: &web, Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	if build, change, other := took.Usual(web, "build"), took.Usual(web, "switch"), took.Usual(web, "none"); build != 10_000 || change != 3 || other != 0 {
		t.Errorf("usual are %d, %d, %d ms", build, change, other)
	}
}
