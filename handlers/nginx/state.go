package nginx

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/durable"
)

// state is kept in StateFile.
type state struct {
	// Served is the tree that nginx was last seen to take; empty where that is not known.
	Served string `json:"served,omitempty"`
	// Limits are what the CA has refused for a while.
	Limits []limit `json:"limits,omitempty"`
}

// limit says that no certificate is to be asked for before Until.
type limit struct {
	Site  string    `json:"site"`
	Names []string  `json:"names"`
	Until time.Time `json:"until"`
	Why   string    `json:"why"`
}

func readState(file string) (state, error) {
	var s state
	if _, err := durable.ReadJSON(file, &s); err != nil {
		return s, fmt.Errorf("read what is known of nginx: %w; remove %s if it is broken", err, file)
	}
	return s, nil
}

func (s state) write(file string) error {
	data, err := json.Marshal(s)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o700)
	}
	if err == nil {
		err = durable.WriteFile(file, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep what is known of nginx: %w", err)
	}
	return nil
}
