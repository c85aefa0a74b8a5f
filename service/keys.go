package service

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/caller"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/iana"
	"github.com/fetchgate/fetchgate/service/policy"
	"github.com/fetchgate/fetchgate/service/telemetry"
)

// The bounds of a fetch of an issuer's keys.
const (
	keysTimeout  = 10 * time.Second
	maxKeysBytes = 1 << 20
	// keysLook is how often it is looked for keys that are due.
	keysLook = time.Second
)

// renewKeys has the keys of issuers fetched that are due, until ctx ends.
func (s *Service) renewKeys(ctx context.Context) {
	look := time.NewTicker(keysLook)
	defer look.Stop()
	for {
		s.current.Load().callers.RenewKeys(ctx)
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

// issuerKeys is what the metrics say of the keys of issuers.
func (s *Service) issuerKeys() []telemetry.IssuerKeys {
	var all []telemetry.IssuerKeys
	for _, k := range s.current.Load().callers.FetchedKeys() {
		all = append(all, telemetry.IssuerKeys(k))
	}
	return all
}

// keysDestination is where a jwks_url leads, and the word of policy on it, as if
// the setting were a rule for that origin: public addresses and those of allow,
// loopback ones only if they are among them, too.
func keysDestination(url string, allow []string, own func() []netip.AddrPort) (fetch.Destination, policy.Decision, error) {
	to, err := fetch.ParseURL(url)
	if err != nil {
		why := err.Error()
		if wrong, ok := errors.AsType[*fetch.URLError](err); ok {
			why = wrong.Message
		}
		return to, policy.Decision{}, &policy.RuleError{Path: "jwks_url", Message: "is no URL that can be fetched: " + why}
	}
	opened := loopbackOf(allow)
	rule := &configv1.Rule{
		Name: "jwks_url", Origins: []string{to.Origin.String()}, AllowAddresses: allow, DangerousAllowLoopback: len(opened) > 0,
	}
	compiled, err := policy.Compile([]*configv1.Rule{rule}, policy.Options{Own: own})
	if err != nil {
		return to, policy.Decision{}, err
	}
	decided := compiled.Decide(policy.Ask{Method: http.MethodGet, Destination: to})
	if decided.Denied != nil {
		return to, decided, nil
	}
	byPolicy := decided.Allow
	decided.Allow = func(at netip.AddrPort) error {
		isOpen := slices.ContainsFunc(opened, func(p netip.Prefix) bool { return p.Contains(at.Addr().Unmap()) })
		if iana.Classify(at.Addr()) == iana.Loopback && !isOpen {
			return &fetch.Denied{
				Reason: fetch.ReasonAddressDenied, Class: iana.Loopback.String(),
				Message: "the address is this machine's own, which jwks_allow_addresses does not list",
			}
		}
		return byPolicy(at)
	}
	return to, decided, nil
}

// loopbackOf are those of some ranges that have loopback addresses.
func loopbackOf(allow []string) []netip.Prefix {
	var found []netip.Prefix
	for _, text := range allow {
		p, err := netip.ParsePrefix(text)
		if one, isAddr := netip.ParseAddr(text); isAddr == nil {
			p, err = one.Prefix(one.BitLen())
		}
		if err == nil && iana.Classify(p.Addr()) == iana.Loopback {
			found = append(found, p)
		}
	}
	return found
}

// checkKeysURLs says what is wrong with the URLs of keys, and with what they may
// lead to.
func checkKeysURLs(issuers []*configv1.JwtIssuer) error {
	var wrong []error
	for i, c := range issuers {
		if c.GetJwksUrl() == "" {
			continue
		}
		_, decided, err := keysDestination(c.GetJwksUrl(), c.GetJwksAllowAddresses(), nil)
		if err == nil && decided.Denied != nil {
			err = &policy.RuleError{Path: "jwks_url", Message: "leads nowhere: " + whyNoKeys(context.Background(), decided.Denied).Error()}
		}
		for _, e := range policy.Joined(err) {
			of, ok := errors.AsType[*policy.RuleError](e)
			if !ok {
				of = &policy.RuleError{Path: "jwks_url", Message: e.Error()}
			}
			setting := "jwks_url"
			if _, place, ok := strings.Cut(of.Path, "allow_addresses"); ok {
				setting = "jwks_allow_addresses" + place
			}
			wrong = append(wrong, &caller.FileError{Path: fmt.Sprintf("jwt_issuers[%d].%s", i, setting), Message: of.Message})
		}
	}
	return errors.Join(wrong...)
}

// fetchKeys is the caller.Fetch of a service: one request on a connection of its
// own, with the trust in authorities of the configuration in force. Its errors
// hold nothing of what came, nor the query of the URL.
func (s *Service) fetchKeys(ctx context.Context, url string, allow []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	defer context.AfterFunc(s.watching, cancel)() // a drain does not wait for keys
	r, err := s.keysRequest(url, allow)
	if err != nil {
		return nil, err
	}
	answer, _, err := s.transport.RoundTrip(ctx, r)
	if err != nil {
		return nil, whyNoKeys(ctx, err)
	}
	defer answer.Body.Close()
	switch {
	case answer.Status >= 300 && answer.Status < 400:
		return nil, fmt.Errorf("%s answered %d, and redirects are not followed; write the URL that it leads to", r.Host, answer.Status)
	case answer.Status != http.StatusOK:
		return nil, fmt.Errorf("%s answered %d, not 200; see that jwks_url is where the issuer has its keys", r.Host, answer.Status)
	case isCoded(answer.Fields):
		return nil, fmt.Errorf("%s answered with a content coding, which was not asked for; have it send the keys as they are", r.Host)
	case answer.Length > maxKeysBytes:
		return nil, errKeysTooLarge
	}
	content, err := io.ReadAll(io.LimitReader(answer.Body, maxKeysBytes+1))
	switch {
	case err != nil:
		return nil, whyNoKeys(ctx, err)
	case len(content) > maxKeysBytes:
		return nil, errKeysTooLarge
	}
	return content, nil
}

var errKeysTooLarge = errors.New("the answer is larger than 1048576 bytes, the most that is read; have the issuer leave out keys that are no longer used")

// keysRequest asks for the keys at a URL.
func (s *Service) keysRequest(url string, allow []string) (*fetch.Request, error) {
	to, decided, err := keysDestination(url, allow, s.own)
	if err != nil {
		return nil, err
	}
	if decided.Denied != nil {
		return nil, whyNoKeys(context.Background(), decided.Denied)
	}
	g := s.current.Load()
	timeouts := g.limits.Timeouts
	timeouts.Attempt, timeouts.Total = keysTimeout, keysTimeout
	digest := sha256.Sum256([]byte(strings.Join(allow, " ")))
	route := fetch.Route{
		Partition: "jwks", AddressProfile: fmt.Sprintf("jwks:%x", digest[:16]), TLS: g.tls,
		Allow: decided.Allow, MaxDials: g.limits.MaxDialsPerAttempt,
	}
	field := func(name, value string) fetch.Field { return fetch.Field{Name: name, Value: []byte(value)} }
	return &fetch.Request{
		Method: http.MethodGet, Scheme: to.Scheme, Host: to.Host, Port: to.Port, Target: []byte(to.Target),
		Fields: []fetch.Field{
			field("User-Agent", s.userAgent), field("Accept", "application/jwk-set+json, application/json"), field("Accept-Encoding", "identity"),
		},
		Framing: fetch.FramingNone, Route: route.Sealed(to.Origin), Timeouts: timeouts,
		Fresh: true, CloseAfter: true,
	}, nil
}

// isCoded tells that the body is not as it is meant (RFC 9110 section 8.4).
func isCoded(fields []fetch.Field) bool {
	return slices.ContainsFunc(fields, func(f fetch.Field) bool {
		return strings.EqualFold(f.Name, "Content-Encoding") && !strings.EqualFold(string(f.Value), "identity")
	})
}

// whyNoKeys is err for the operator, who reads of addresses too.
func whyNoKeys(ctx context.Context, err error) error {
	denied, isDenied := errors.AsType[*fetch.Denied](err)
	switch {
	case isDenied && (denied.Class == iana.Metadata.String() || denied.Class == policy.ClassOwn):
		return errors.New(withAudit(denied) + "; no setting opens such addresses for keys")
	case isDenied:
		return errors.New(withAudit(denied) + "; if it is meant, add the address to jwks_allow_addresses")
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return errors.New("the keys did not come within " + keysTimeout.String() + "; see that fetchgate reaches the issuer")
	}
	return err
}

func withAudit(d *fetch.Denied) string {
	if d.Audit == "" {
		return d.Message
	}
	return d.Message + " (" + d.Audit + ")"
}
