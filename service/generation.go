package service

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/credential"
	"github.com/fetchgate/fetchgate/service/engine"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
	"github.com/fetchgate/fetchgate/service/server"
	"github.com/fetchgate/fetchgate/service/telemetry"
)

// generation is everything of a configuration that a reload exchanges. It does
// not change: an RPC that began under it ends under it.
type generation struct {
	config *config.Loaded
	limits fetch.Limits
	tls    fetch.TLSSettings
	policy *policy.Policy
	// callers tells who is calling.
	callers *caller.Authenticator
	// credentials are those that the server holds. Their secrets change.
	credentials *credential.Store
	// evidence is what the audit record and the metrics say of it.
	evidence telemetry.Configuration
	// origins are those that it names in full.
	origins []fetch.Origin
	// fetches answers RPCs under it; nil until it is in force.
	fetches *server.Snapshot
}

// buildGeneration compiles a configuration that was checked. Its errors say what
// of it to mend; it changes nothing.
func (s *Service) buildGeneration(c *config.Loaded) (*generation, error) {
	roots, rootsID, err := c.Roots(x509.SystemCertPool)
	if err != nil {
		return nil, err
	}
	g := &generation{
		config: c,
		limits: config.KeepFixed(limitsOf(c), s.limits),
		tls:    fetch.TLSSettings{Roots: roots, RootsID: rootsID, MinVersion: c.MinTLSVersion()},
	}
	if g.policy, err = CompilePolicy(c, s.own); err != nil {
		return nil, err
	}
	last := s.current.Load()
	var known *caller.Authenticator
	if last != nil {
		known = last.callers
	}
	if g.callers, err = compileCallers(c, caller.Options{
		Log: s.log, Fetch: s.fetchKeys, Before: known, JudgeCertificates: s.certificatesJudge(), SPIFFEOnly: s.config.SPIFFEOnly(),
	}); err != nil {
		return nil, err
	}
	var before *credential.Store
	if last != nil {
		before = last.credentials
	}
	if g.credentials, err = HoldCredentials(c, before, s.log); err != nil {
		return nil, err
	}
	recorded := proto.CloneOf(c.Config)
	recorded.Audit = c.Audit()
	g.origins = namedOrigins(recorded) // parsed once, not at each scrape
	g.evidence = telemetry.Configuration{
		Config: recorded, Locate: c.Locate, Generation: c.Generation, Digest: "sha256:" + c.Digest, Dangerous: c.Dangerous(),
	}
	return g, nil
}

// enforce makes g what new RPCs are answered under.
func (s *Service) enforce(g *generation) {
	g.fetches = s.server.Snapshot(server.Settings{
		Limits: g.limits, TLS: g.tls, Generation: g.config.Generation, Policy: g.policy,
		Credentials: g.credentials,
	})
	s.current.Store(g)
}

type pinnedKey struct{}

// authenticate finds out who calls. The RPC then has one generation to its end.
func (s *Service) authenticate(ctx context.Context) (context.Context, error) {
	g := s.current.Load()
	ctx, err := authenticate(ctx, g.callers)
	if err != nil {
		return nil, err
	}
	return context.WithValue(ctx, pinnedKey{}, g), nil
}

// pinned is the generation of the RPC of ctx.
func (s *Service) pinned(ctx context.Context) *generation {
	if g, ok := ctx.Value(pinnedKey{}).(*generation); ok {
		return g
	}
	return s.current.Load()
}

// judge says whether g denies a fetch of an older generation where it is.
func (g *generation) judge(at engine.Place) *fetch.Denied {
	if denied := g.judgeCaller(at); denied != nil {
		return denied
	}
	decision := g.policy.Decide(at.Ask)
	switch {
	case decision.Denied != nil:
		return decision.Denied
	case at.Downgraded && !decision.AllowDowngrade:
		return &fetch.Denied{
			Reason: fetch.ReasonDestinationDenied, Rule: decision.Rule,
			Message: "the redirect that led here from https to http is no longer allowed",
		}
	case at.Remote.IsValid():
		if denied, ok := errors.AsType[*fetch.Denied](decision.Allow(at.Remote)); ok {
			denied.Rule = decision.Rule
			return denied
		}
	}
	return g.judgeCredentials(at, decision.Rule)
}

// judgeCaller denies a caller that is no longer known by what it proved itself
// with, or that may not call the RPC any more.
func (g *generation) judgeCaller(at engine.Place) *fetch.Denied {
	now := g.callers.Still(at.Ask.Caller)
	switch {
	case now == nil:
		return &fetch.Denied{
			Reason: fetch.ReasonDestinationDenied, Message: "the caller is not one of the configuration any more, or not by what it proved itself with",
			Hint: "Ask who runs fetchgate for an identity.",
		}
	case at.Needs != 0 && now.Rights&at.Needs == 0:
		return &fetch.Denied{
			Reason: fetch.ReasonDestinationDenied, Message: "the caller does not have the right to this RPC any more",
			Hint: "Ask who runs fetchgate to have it added to callers[].rights.",
		}
	}
	return nil
}

// judgeCredentials denies a hop with a credential that the server does not hold
// any more, or no longer for it.
func (g *generation) judgeCredentials(at engine.Place, rule string) *fetch.Denied {
	for _, name := range at.Credentials {
		c := g.credentials.Named(name)
		if c == nil || !c.Fits(at.Ask.Caller, at.Ask.Method, at.Ask.Destination) {
			return &fetch.Denied{
				Reason: fetch.ReasonCredentialOutOfBinding, Rule: rule,
				Message: "a credential that the request went with is not in the configuration any more, or not for this caller, origin, method and path",
				Hint:    "Ask the owner of the policy which credential serves this origin, method and path.",
			}
		}
	}
	return nil
}

// keeps tells which connections fetches under g can use, that takes the place of
// last. Those with a certificate of fetchgate's own go if any credential changed:
// it may be the one.
func (g *generation) keeps(last *generation) func(fetch.Route) bool {
	same := slices.EqualFunc(g.config.Config.GetCredentials(), last.config.Config.GetCredentials(), func(a, b *configv1.HeldCredential) bool {
		return proto.Equal(a, b)
	})
	return func(r fetch.Route) bool {
		return (same || r.TLS.IdentityID == "") && g.policy.Reaches(r, g.tls)
	}
}
