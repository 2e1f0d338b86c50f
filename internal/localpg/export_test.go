package localpg

// SetSearchDirs replaces the places where the programs are looked for.
func SetSearchDirs(cfg *Config, dirs ...string) { cfg.searchDirs = dirs }

// MaxLog is the size at which the server's log is emptied, bytes.
const MaxLog = maxLog
