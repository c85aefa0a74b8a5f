package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// callerWith returns the caller of an RPC that needs one of these rights, or the
// refusal of one that is not known or has none of them; then too what is known
// of the caller, for the record.
func callerWith(ctx context.Context, anyOf fetch.Rights) (fetch.Caller, error) {
	who, err := caller.FromContext(ctx)
	if unknown, ok := errors.AsType[*caller.Unknown](err); ok {
		return who, &refusal{code: codes.Unauthenticated, reason: caller.Reason, message: unknown.Error()}
	}
	if err != nil {
		return who, err
	}
	if who.Rights&anyOf == 0 {
		return who, withoutRight(who, anyOf)
	}
	return who, nil
}

// withoutRight refuses an RPC that its caller may not call.
func withoutRight(who fetch.Caller, anyOf fetch.Rights) *refusal {
	var names []string
	for i, name := range fetch.RightNames {
		if anyOf&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	owner := "the operator of fetchgate"
	if who.Owner != "" {
		owner = "its owner, " + fetch.Escape([]byte(who.Owner), 128) + ","
	}
	return &refusal{
		code: codes.PermissionDenied, reason: reasonRightMissing,
		message: fmt.Sprintf("the caller %s lacks the right %s. Ask %s to have it added to callers[].rights", who.Name, strings.Join(names, " or "), owner),
	}
}
