# The commands of this repository; `just` lists them.

# Watch a signed push go live on a private, temporary server.
demo *ARGS:
    go run ./cmd/durhack-deployer demo {{ARGS}}

# All tests but those of `just integration` that need Redis.
test *ARGS:
    go test {{ARGS}} ./...

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

# A static binary in bin/.
build:
    CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/durhack-deployer
