package server

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// InForce is what WaitForGeneration tells.
type InForce struct {
	// Generation is the number of the configuration in force, Digest the SHA-256
	// of its file in hexadecimal; empty means that there is none.
	Generation int64
	Digest     string
	// Refused says why the last change was refused, RefusedDigest is that of its
	// file where it could be read. Both are empty if it was not.
	Refused, RefusedDigest string
	// Refusals counts the changes that were refused.
	Refusals int64
}

// maxWait is how long WaitForGeneration waits at most.
const maxWait = 5 * time.Minute

// WaitForGeneration waits until the configuration that m names is in force, or a
// change was refused since the call; a file that was refused before counts if m
// names it. Why is told to those with the right operate alone: it is about what
// other callers may do.
func (e explainer) WaitForGeneration(ctx context.Context, m *fetchgatev1.WaitForGenerationRequest) (*fetchgatev1.WaitForGenerationResponse, error) {
	who, lease, err := e.admit(ctx, fetch.RightExplain|fetch.RightOperate)
	if err != nil {
		return nil, err
	}
	defer lease.Done()
	if v := checkWait(m); len(v) > 0 {
		return nil, invalid(v)
	}
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	now, changed := e.inForce()
	for began := now.Refusals; !isAwaited(m, now) && !isRefusedSince(m, now, began); now, changed = e.inForce() {
		select {
		case <-changed:
		case <-e.drained:
			return nil, &refusal{code: codes.Unavailable, reason: string(fetch.ReasonDraining), message: "fetchgate is draining; ask another replica"}
		case <-ctx.Done():
			return nil, waitedInVain(ctx, now)
		}
	}
	answer := &fetchgatev1.WaitForGenerationResponse{Generation: now.Generation, ConfigSha256: now.Digest, Refused: now.Refused}
	if now.Refused != "" && who.Rights&fetch.RightOperate == 0 {
		answer.Refused = "the configuration has errors, which the log and callers with the right operate are told"
	}
	return answer, nil
}

// checkWait returns what is wrong with m.
func checkWait(m *fetchgatev1.WaitForGenerationRequest) (wrong []violation) {
	digest := m.GetConfigSha256()
	switch raw, err := hex.DecodeString(digest); {
	case m.GetGeneration() < 0:
		wrong = append(wrong, violation{"generation", reasonFieldInvalid, "it is below 0; generations count from 1"})
	case digest == "":
	case m.GetGeneration() != 0:
		wrong = append(wrong, violation{"config_sha256", reasonFieldInvalid, "generation is set too; wait for one of them"})
	case err != nil || len(raw) != 32:
		wrong = append(wrong, violation{"config_sha256", reasonFieldInvalid, "it is not 64 hexadecimal digits, as sha256sum prints them"})
	}
	return wrong
}

// isAwaited tells that what m waits for is in force.
func isAwaited(m *fetchgatev1.WaitForGenerationRequest, now InForce) bool {
	if digest := m.GetConfigSha256(); digest != "" {
		return strings.EqualFold(digest, now.Digest)
	}
	return now.Generation >= m.GetGeneration()
}

// isRefusedSince tells that what m waits for will not come without another
// change.
func isRefusedSince(m *fetchgatev1.WaitForGenerationRequest, now InForce, began int64) bool {
	named := m.GetConfigSha256() != "" && strings.EqualFold(m.GetConfigSha256(), now.RefusedDigest)
	return now.Refused != "" && (named || now.Refusals > began)
}

// waitedInVain is the answer at the end of ctx.
func waitedInVain(ctx context.Context, now InForce) error {
	if ctx.Err() == context.Canceled {
		return status.Error(codes.Canceled, "the caller no longer waits")
	}
	return status.Error(codes.DeadlineExceeded, fmt.Sprintf("generation %d is still in force; see that the file has changed where fetchgate reads it, and call again to go on waiting", now.Generation))
}
