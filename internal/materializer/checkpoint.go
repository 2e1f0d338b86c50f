package materializer

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// checkpointName begins the name of the materializer's row in the table
// checkpoints. The place of the queues follows: a checkpoint speaks of files, and
// two hosts that work for one instance have different ones.
const checkpointName = "materializer of "

// key names a checkpoint.
type key struct{ instance, place string }

func loadCheckpoint(ctx context.Context, pool *pgxpool.Pool, k key) (position int64, found bool, err error) {
	err = pool.QueryRow(ctx,
		`select position from checkpoints where name = $1 and instance = $2`,
		checkpointName+k.place, k.instance).Scan(&position)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read the checkpoint: %w", err)
	}
	return position, true, nil
}

// advanceCheckpoint moves the checkpoint forward. It leaves one alone that is
// there or further already, so two writers at once cannot take it back.
func advanceCheckpoint(ctx context.Context, pool *pgxpool.Pool, k key, position int64) error {
	return setCheckpoint(ctx, pool, `
		insert into checkpoints (name, instance, position) values ($1, $2, $3)
		on conflict (name, instance) do update set position = excluded.position, updated_at = now()
		where checkpoints.position < excluded.position`, k, position)
}

// resetCheckpoint moves the checkpoint to position from wherever it is, for a
// rebuild on a log that is shorter than the one that it was made from.
func resetCheckpoint(ctx context.Context, pool *pgxpool.Pool, k key, position int64) error {
	return setCheckpoint(ctx, pool, `
		insert into checkpoints (name, instance, position) values ($1, $2, $3)
		on conflict (name, instance) do update set position = excluded.position, updated_at = now()`, k, position)
}

// setCheckpoint does not wait for its commit to reach the disk: a checkpoint
// that a crash takes back is only behind, and the wait would compete with the
// commits that a deploy does wait for.
func setCheckpoint(ctx context.Context, pool *pgxpool.Pool, sql string, k key, position int64) error {
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `set local synchronous_commit = off`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, sql, checkpointName+k.place, k.instance, position)
		return err
	})
	if err != nil {
		return fmt.Errorf("move the checkpoint to %d: %w", position, err)
	}
	return nil
}

// Checkpoint is the position up to which the queues have been written, as it is
// stored: 0 where nothing has been.
func (m *Materializer) Checkpoint(ctx context.Context) (int64, error) {
	place, err := readPlace(m.o.QueuesDir)
	if err != nil || place == "" {
		return 0, err
	}
	position, _, err := loadCheckpoint(ctx, m.o.Pool, key{m.o.Instance, place})
	return position, err
}

// key makes the name of the place where there is none yet.
func (m *Materializer) key() (key, error) {
	place, err := makePlace(m.o.QueuesDir)
	return key{m.o.Instance, place}, err
}
