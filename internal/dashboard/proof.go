package dashboard

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/ducompsoc/durhack-deployer/internal/answer"
	"github.com/ducompsoc/durhack-deployer/internal/checkpoint"
	"github.com/ducompsoc/durhack-deployer/internal/signer"
	"github.com/ducompsoc/durhack-deployer/internal/words"
)

// proofView is the page that says what can be proved of the log.
type proofView struct {
	Headline, Lead string
	Class          string
	Head           int64
	// Signed is the checkpoint that was signed last; nil where there is none.
	Signed   *checkpoint.Checkpoint
	SignedAt time.Time
	Root     string
	File     string
	Trouble  string
	Unsigned int64
	Verified *answer.Verified
	Commands []string
}

func proofPage(ctx context.Context, r *request) (view, error) {
	head, err := r.source.Log.Head(ctx)
	if err != nil {
		return view{}, err
	}
	cfg := r.h.o.Config
	v := proofView{Head: head, File: signer.Path(cfg.StateDir), Commands: []string{
		"durhack-deployer verify", "durhack-deployer checkpoint --out FILE", "durhack-deployer verify --against FILE", "durhack-deployer prove POSITION",
	}}
	signed, err := signer.Kept(cfg.StateDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		v.Trouble = plain("The checkpoint that was signed last cannot be read: "+err.Error(), 400)
	default:
		c, err := checkpoint.Unverified(signed)
		if err != nil {
			v.Trouble = plain("The checkpoint that was signed last cannot be read: "+err.Error(), 400)
			break
		}
		v.Signed, v.Root, v.Unsigned = &c, c.Hash.String(), head-c.N
		if info, err := os.Stat(v.File); err == nil {
			v.SignedAt = info.ModTime().UTC()
		}
	}
	if v.Verified, err = answer.LastVerify(cfg); err != nil && v.Trouble == "" {
		v.Trouble = plain(err.Error(), 400)
	}
	v.tell()
	return view{name: "proof", Title: v.Headline, Skip: "what can be proved", Current: "proof", Watch: "*", Data: v}, nil
}

func (v *proofView) tell() {
	switch {
	case v.Verified != nil && len(v.Verified.Breaches) > 0:
		v.Class, v.Headline = "failed", "The last verify found "+words.Counted(len(v.Verified.Breaches), "breach", "breaches")
		v.Lead = "What to do is in the operator's guide; nothing fixes a breach of the log itself."
	case v.Trouble != "":
		v.Class, v.Headline = "failed", "What was signed cannot be read"
		v.Lead = v.Trouble
	case v.Head == 0:
		v.Class, v.Headline = "never", "The log is empty, so there is nothing to prove yet"
	case v.Signed == nil:
		v.Class, v.Headline = "waiting", "Nothing is signed yet"
		v.Lead = "A rewriting of the whole log could not be seen. The daemon signs after each deploy, and within a minute."
	case v.Unsigned < 0:
		v.Class, v.Headline = "failed", "The log is shorter than what was signed"
		v.Lead = "Events at its end were removed, or this is another log. durhack-deployer verify says more."
	case v.Unsigned == 0:
		v.Class, v.Headline = "live", "All "+thin(v.Head)+" events are signed"
	default:
		v.Class, v.Headline = "waiting", thin(v.Signed.N)+" of "+thin(v.Head)+" events are signed"
		v.Lead = "The daemon signs after each deploy, and within a minute."
	}
}
