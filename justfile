# The commands of this repository; `just` lists them.

# Watch a signed push go live on a private, temporary server.
demo *ARGS:
    go run ./cmd/durhack-deployer demo {{ARGS}}

# All tests but those of `just integration` that need Redis; they need Go, git and Postgres.
test *ARGS:
    go test {{ARGS}} ./...

# The packages with properties and models, with TIMES the checks: hours. A failure names its seed (RAPID_SEED).
soak TIMES='100' *ARGS:
    RAPID_CHECKS={{TIMES}}00 go test -count=1 -timeout=0 {{ARGS}} $(grep -rl --include='*_test.go' --exclude-dir=integration 'rapid\.Check' . | xargs -n1 dirname | sort -u)

# The whole daemon on Postgres and Dragonfly (Docker), or on local servers where there is no engine.
integration *ARGS:
    go run ./integration/run {{ARGS}}

lint:
    go vet ./...
    golangci-lint run

fmt:
    gofmt -w $(git ls-files '*.go')

# Measure against raw loops and peers; see docs/performance.md.
bench *ARGS:
    go run ./integration/bench {{ARGS}}

# Pictures of the dashboard, of the demo, in docs/screenshots; needs Chromium.
screenshots *ARGS:
    go run ./integration/screenshots {{ARGS}}

# A static binary in bin/.
build:
    CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/durhack-deployer
