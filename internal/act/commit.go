package act

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ducompsoc/durhack-deployer/eventlog"
	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/config"
	"github.com/ducompsoc/durhack-deployer/internal/git"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

// Commit finds what a reference means for a deployment: a ref of the remote, or the
// beginning of a hash, of which the clone and then the log are asked. carrying lists the
// deliveries whose commit begins so.
func Commit(ctx context.Context, repo *git.Repo, d *config.Deployment, ref string, carrying func(ctx context.Context, text string) ([]eventlog.Event, error)) (string, error) {
	if ref == "" {
		ref = "refs/heads/" + d.Branch
	}
	found, err := repo.Resolve(ctx, ref)
	if err == nil {
		return found.Commit, nil
	}
	err = fmt.Errorf("find %q at the remote of %s: %w", ref, d.Slug, err)
	if errors.Is(err, git.ErrRefNotFound) {
		err = &Error{Err: err, Hint: "name a branch, a tag or a full commit hash of the remote; the beginning of a hash is known only of commits that were pushed or fetched before"}
	}
	if !errors.Is(err, git.ErrRefNotFound) || !answer.MaybeCommit(ref) {
		return "", err
	}
	known, gitErr := repo.Beginning(ctx, strings.ToLower(ref))
	if gitErr != nil {
		return "", gitErr
	}
	lines := map[string]string{}
	for _, k := range known {
		lines[k.Hash] = fmt.Sprintf("%s  %s  %s", k.Hash, k.Date, words.Shorten(k.Subject, answer.MaxSummary))
	}
	if len(known) == 0 { // it was pushed, but never fetched here
		events, logErr := carrying(ctx, ref)
		if logErr != nil {
			return "", errors.Join(err, fmt.Errorf("look for it in the log: %w", logErr))
		}
		for _, e := range events {
			data, err := e.Decode()
			if err != nil {
				return "", err
			}
			if r, ok := data.(eventlog.Received); ok && strings.EqualFold(r.Repository, d.Repository) {
				lines[r.Commit] = fmt.Sprintf("%s  %s  %s", r.Commit, words.Clock(e.RecordedAt), answer.Summary(e))
			}
		}
	}
	switch commits := slices.Sorted(maps.Keys(lines)); len(commits) {
	case 0:
		return "", err
	case 1:
		return commits[0], nil
	default:
		return "", answer.AmbiguousError(ref, slices.Sorted(maps.Values(lines)))
	}
}
