package server

import (
	"errors"
	"fmt"
	"strings"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/credential"
	"github.com/fetchgate/fetchgate/service/engine"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// maxCredentials is the most credentials of one request.
const maxCredentials = 8

// credentials are those that the request names or brings along. Whether a named
// one goes to the destination, the engine asks with policy.
func (d *draft) credentials(list []*fetchgatev1.Credential) {
	d.plan.Held = d.held
	if n := len(list); n > maxCredentials {
		d.wrong("options.credentials", "there are %d; at most %d go with a request", n, maxCredentials)
		return
	}
	for i, m := range list {
		path := fmt.Sprintf("options.credentials[%d]", i)
		c, inside, err := d.credential(m)
		if err != nil {
			d.wrong(joinPath(path, inside), "%v", err)
			continue
		}
		if err := d.unique(c); err != nil {
			d.wrong(path, "%v", err)
			continue
		}
		d.plan.Credentials = append(d.plan.Credentials, c)
	}
}

// credential returns one of them, or what is wrong and where inside it.
func (d *draft) credential(m *fetchgatev1.Credential) (c fetch.Credential, inside string, err error) {
	if m.GetNamed() != nil {
		c, err = d.named(m.GetNamed().GetName())
		return c, "named.name", err
	}
	c, err = credential.Parse(m, d.plan.Destination.Origin)
	if bad, ok := errors.AsType[*credential.FieldError](err); ok {
		return nil, bad.Field, errors.New(bad.Message)
	}
	return c, "", err
}

// errUnknownCredential says the same of a name that nobody has and of one that is
// not for the caller: what others use is not its business.
var errUnknownCredential = errors.New("this server holds no credential of this name for this caller; ask its operator")

// named returns the credential of that name.
func (d *draft) named(name string) (fetch.Credential, error) {
	if name == "" {
		return nil, errors.New("it is empty; name one that the server holds")
	}
	if d.held == nil {
		return nil, errUnknownCredential
	}
	c := d.held.Named(name)
	if c == nil || !c.For(d.who) {
		return nil, errUnknownCredential
	}
	return c, nil
}

// unique refuses a credential that would write what the request, or a credential
// before it, writes already.
func (d *draft) unique(c fetch.Credential) error {
	place := c.Place()
	for _, other := range d.plan.Credentials {
		if o := other.Place(); o == place || o.Field != "" && strings.EqualFold(o.Field, place.Field) {
			return fmt.Errorf("it writes %s, and so does one before it; keep one", place)
		}
	}
	target := d.plan.Destination
	switch {
	case place.Certificate:
		return nil
	case d.plan.Verbatim:
		return errors.New("options.verbatim adds nothing to a request; write the field into request.headers, or leave options.verbatim out")
	case place.Field != "":
		if _, given := fetch.Get(d.plan.Fields, place.Field); given {
			return fmt.Errorf("it writes %s, and request.headers has one; leave out one of them", place)
		}
	case target.Target == "*":
		return fmt.Errorf("it writes %s, and the target * has no query", place)
	case credential.HasParam(target.RawQuery(), place.Param):
		return fmt.Errorf("it writes %s, and the URL has one; leave out one of them", place)
	}
	return nil
}

// judgeCredentials adds what the engine says of the credentials of a plan, which
// is asked once policy has allowed its destination.
func judgeCredentials(plan *fetch.Plan, d policy.Decision, answer *fetchgatev1.ExplainResponse) {
	uses, denied := engine.Credentials(plan, d)
	if denied != nil {
		answer.Allowed, answer.GoesAhead, answer.Why, answer.Hint = false, false, denied.Message, denied.Hint
		answer.Mode = "enforce" // no other lets it go ahead
		answer.Checks = append(answer.Checks, &fetchgatev1.PolicyCheck{Check: "credential", Detail: denied.Message})
		return
	}
	for _, u := range uses {
		if u.Name != "" && !u.Dropped {
			answer.Credentials = append(answer.Credentials, u.Name)
		}
		answer.Checks = append(answer.Checks, &fetchgatev1.PolicyCheck{
			Check: "credential", Passed: true, Detail: useDetail(u, plan.Destination.Scheme),
		})
	}
}

// useDetail says what becomes of a credential of the first hop, which goes over
// that scheme.
func useDetail(u fetch.CredentialUse, scheme string) string {
	switch {
	case u.Foreign: // what others use is not the caller's business
		return "one of the rule is left out: it is not bound to this caller"
	case u.Dropped && scheme != "https":
		return fmt.Sprintf("the rule's %q is left out: what the server holds goes over https alone, to this machine too", u.Name)
	case u.Dropped:
		return fmt.Sprintf("the rule's %q is left out: it is not bound to this caller, origin, method and path", u.Name)
	case u.Name != "":
		return fmt.Sprintf("%q goes along: %s", u.Name, u.Kind)
	}
	return "one of the request goes along: " + u.Kind
}

// tellEchoes warns of upstreams that showed secrets.
func (c *call) tellEchoes(r *fetch.Report) {
	for _, a := range r.Attempts {
		for _, h := range a.Hops {
			for _, name := range h.Echoes {
				c.server.log.WarnContext(c.ctx, "an upstream shows the secret of a credential in its answer; it was taken out",
					"credential", name, "origin", h.Destination.Origin.String(), "rule", h.Rule, "fetch_id", r.ID)
			}
		}
	}
}
