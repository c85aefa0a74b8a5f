package service

import (
	"context"
	"log/slog"

	"google.golang.org/grpc"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/config"
)

// CompileCallers makes known the callers of a configuration. It reads the keys of
// their issuers; its errors say the file, the line and the column. A nil log
// discards what is said later, when the keys change.
func CompileCallers(c *config.Loaded, log *slog.Logger) (*caller.Authenticator, error) {
	return compileCallers(c, caller.Options{Log: log})
}

// compileCallers is CompileCallers where more is known than the configuration
// says.
func compileCallers(c *config.Loaded, o caller.Options) (*caller.Authenticator, error) {
	o.Callers, o.Issuers, o.File = c.Config.GetCallers(), c.Config.GetJwtIssuers(), c.File
	err := checkKeysURLs(o.Issuers)
	if err == nil {
		var a *caller.Authenticator
		if a, err = caller.New(o); err == nil {
			return a, nil
		}
	}
	return nil, c.Refuse(faults(err))
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
