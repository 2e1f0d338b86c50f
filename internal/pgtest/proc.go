package pgtest

import (
	"path/filepath"
	"strconv"

	"github.com/ducompsoc/durhack-deployer/internal/process"
)

// childrenOf lists the living children of a process.
func childrenOf(pid int) ([]int, error) {
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var children []int
	for _, path := range procs {
		child, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			return nil, err
		}
		if s, ok := process.ReadStat(child); ok && s.Parent == pid && s.Alive() {
			children = append(children, child)
		}
	}
	return children, nil
}
