package archive

import (
	"os"
	"testing"

	"github.com/ducompsoc/durhack-deployer/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
