package service

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"google.golang.org/grpc"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/config"
)

// CompileCallers makes known the callers of a configuration. It reads the keys of
// their issuers; its errors say the file, the line and the column. A nil log
// discards what is said later, when the keys change.
func CompileCallers(c *config.Loaded, log *slog.Logger) (*caller.Authenticator, error) {
	a, err := caller.New(caller.Options{
		Callers: c.Config.GetCallers(), Issuers: c.Config.GetJwtIssuers(), File: c.File, Log: log,
	})
	if err == nil {
		return a, nil
	}
	return nil, errors.New(strings.Join(located(c, err), "\n"))
}

// authenticate finds out who is calling. A caller of a fetch that is not known
// goes on to the server, which refuses it and records that.
func authenticate(ctx context.Context, by *caller.Authenticator) (context.Context, error) {
	found, err := by.Authenticate(ctx)
	if method, _ := grpc.Method(ctx); err != nil && !refusesItself(method) {
		return nil, err
	}
	return found, nil
}

// refusesItself tells the RPCs whose refusals are in the audit record.
func refusesItself(method string) bool {
	return method == fetchgatev1.FetchService_Fetch_FullMethodName || method == fetchgatev1.FetchService_StreamFetch_FullMethodName
}
