package localpg

// SetSearchDirs replaces the places where the programs are looked for.
func SetSearchDirs(cfg *Config, dirs ...string) { cfg.searchDirs = dirs }

// SetNPMDigest replaces the digest that npm's package must have.
func SetNPMDigest(cfg *Config, sha512 string) { cfg.Fetch.npmSHA512 = sha512 }

// MaxLog is the size at which the server's log is emptied, bytes.
const MaxLog = maxLog
