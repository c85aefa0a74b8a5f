package policy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/retry"
)

// Bounds of what a rule says about fields and retries.
const (
	maxRuleFields     = 100
	maxRuleFieldBytes = 64 << 10
	highestAttempts   = 10
)

// ofLimits are the limits of a rule that are carried out.
var ofLimits = map[string]bool{"max_response_body_bytes": true, "max_request_body_bytes": true}

// HasSettings tells that a rule has settings, so that Decision.Settings may be
// set.
func (p *Policy) HasSettings() bool { return p.settings }

// compileSettings returns what a rule says about how its hops are carried out;
// nil if it says nothing.
func compileSettings(path string, in *configv1.Rule, profiles map[string]fetch.TLSSettings, f *faults) *fetch.RuleSettings {
	if in.GetTimeouts() == nil && in.GetRetry() == nil && in.GetLimits() == nil && len(in.GetSetFields()) == 0 && len(in.GetRemoveFields()) == 0 && in.GetTlsProfile() == "" {
		return nil
	}
	s := &fetch.RuleSettings{
		Timeouts:             compileTimeouts(path+".timeouts", in.GetTimeouts(), f),
		MaxResponseBodyBytes: fetch.Unbounded, MaxRequestBodyBytes: fetch.Unbounded,
	}
	if name := in.GetTlsProfile(); name != "" {
		profile, known := profiles[name]
		if !known {
			f.add(path+".tls_profile", "no TLS profile is called %q", name)
		}
		s.TLS = &profile
	}
	compileRetry(path+".retry", in.GetRetry(), s, f)
	compileLimits(path+".limits", in.GetLimits(), s, f)
	compileSet(path+".set_fields", in.GetSetFields(), s, f)
	compileRemove(path+".remove_fields", in.GetRemoveFields(), s, f)
	return s
}

func compileTimeouts(path string, in *configv1.Timeouts, f *faults) fetch.Timeouts {
	timeout := func(name string, m *durationpb.Duration) time.Duration {
		if m != nil && (m.CheckValid() != nil || m.AsDuration() <= 0) {
			f.add(path+"."+name, "a timeout of %v ends before it begins; remove it for the default", m.AsDuration())
		}
		return m.AsDuration()
	}
	return fetch.Timeouts{
		DNS: timeout("dns", in.GetDns()), Connect: timeout("connect", in.GetConnect()), TLS: timeout("tls", in.GetTls()),
		Head: timeout("response_header", in.GetResponseHeader()), Idle: timeout("idle_read", in.GetIdleRead()),
		Write: timeout("write", in.GetWrite()), Pool: timeout("pool", in.GetPool()),
		Attempt: timeout("attempt", in.GetAttempt()), Total: timeout("total", in.GetTotal()),
	}
}

func compileRetry(path string, in *configv1.RuleRetry, s *fetch.RuleSettings, f *faults) {
	if n := in.GetMaxAttempts(); in != nil && in.MaxAttempts != nil {
		if n < 1 || n > highestAttempts {
			f.add(path+".max_attempts", "%d is not between 1, which switches retries off, and %d", n, highestAttempts)
		}
		s.MaxAttempts = int(n)
	}
	for i, word := range in.GetConditions() {
		at := path + ".conditions[" + strconv.Itoa(i) + "]"
		bit, known := retry.Condition(word)
		switch {
		case !known:
			f.add(at, "%.40q is no condition; write one of %s", word, strings.Join(retryWords(), ", "))
		case bit&listed != 0:
			f.add(at, "%q goes by a list that only a request has; remove it", word)
		}
		s.RetryOn |= bit
	}
}

// listed are the conditions that go by a list of the request.
const listed = fetch.RetryOnStatuses | fetch.RetryOnFields

// retryWords are the conditions that a rule can have.
func retryWords() []string {
	return slices.DeleteFunc(retry.Words(), func(word string) bool {
		bit, _ := retry.Condition(word)
		return bit&listed != 0
	})
}

func compileLimits(path string, in *configv1.RuleLimits, s *fetch.RuleSettings, f *faults) {
	if in == nil {
		return
	}
	fields := in.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if name := string(fields.Get(i).Name()); in.ProtoReflect().Has(fields.Get(i)) && !ofLimits[name] {
			f.add(path+"."+name, "this server does not carry out %q yet; remove it", "limits."+name)
		}
	}
	size := func(name string, n *int64, to *int64) {
		switch {
		case n == nil:
		case *n < 0:
			f.add(path+"."+name, "%d is below 0", *n)
		default:
			*to = *n
		}
	}
	size("max_response_body_bytes", in.MaxResponseBodyBytes, &s.MaxResponseBodyBytes)
	size("max_request_body_bytes", in.MaxRequestBodyBytes, &s.MaxRequestBodyBytes)
}

// compileSet takes the fields by name, so that requests are alike.
func compileSet(path string, in map[string]string, s *fetch.RuleSettings, f *faults) {
	for _, name := range slices.Sorted(maps.Keys(in)) {
		field := fetch.Field{Name: name, Value: []byte(in[name])}
		switch err := fetch.CheckField(field); {
		case isProof(name):
			f.add(path, "%s proves who asks: name it in credentials, which bind it to its origins and keep it out of logs", name)
		case err != nil:
			f.add(path, "%v", err)
		case s.Sets(name):
			f.add(path, "the field %s stands here twice, once in other letters; remove one", name)
		}
		s.Set = append(s.Set, field)
	}
	if len(s.Set) > maxRuleFields || fetch.FieldBytes(s.Set) > maxRuleFieldBytes {
		f.add(path, "they are more than %d fields or bigger than %d bytes", maxRuleFields, maxRuleFieldBytes)
	}
}

// isProof tells that a field proves who asks. Proxy-Authorization and all others
// of proxies are refused in requests too.
func isProof(name string) bool {
	return slices.ContainsFunc([]string{"Authorization", "Proxy-Authorization", "Cookie"}, func(proof string) bool { return strings.EqualFold(name, proof) })
}

func compileRemove(path string, in []string, s *fetch.RuleSettings, f *faults) {
	if len(in) > maxRuleFields {
		f.add(path, "it has %d names; at most %d are taken", len(in), maxRuleFields)
	}
	for i, name := range in {
		at := path + "[" + strconv.Itoa(i) + "]"
		// A name may have '_' here, since requests may have such names.
		if err := fetch.CheckField(fetch.Field{Name: strings.ReplaceAll(name, "_", "-")}); err != nil {
			f.add(at, "%v", err)
		}
		if s.Sets(name) {
			f.add(at, "set_fields sets %s, which replaces that of the request; remove it here", name)
		}
	}
	s.Remove = slices.Clone(in)
}

// guardRequest denies a request that r could not carry out as it says.
func (r *rule) guardRequest(q *question) *fetch.Denied {
	s := r.settings
	if s == nil {
		return nil
	}
	if q.ask.Verbatim && len(s.Set)+len(s.Remove) > 0 {
		return &fetch.Denied{
			Reason: fetch.ReasonDestinationDenied, Rule: r.name, Check: "field",
			Message: fmt.Sprintf("the header fields of a verbatim request go out as they are, and rule %q sets or removes some", r.name),
			Hint:    q.next("Leave options.verbatim out, or ask " + r.whom() + " for a rule without set_fields and remove_fields."),
		}
	}
	if n := q.ask.BodyBytes; n > s.MaxRequestBodyBytes || n < 0 && s.MaxRequestBodyBytes != fetch.Unbounded {
		message := fmt.Sprintf("the request body has %d bytes, rule %q allows %d", n, r.name, s.MaxRequestBodyBytes)
		if n < 0 {
			message = fmt.Sprintf("the request body does not say its size, rule %q allows %d bytes", r.name, s.MaxRequestBodyBytes)
		}
		return &fetch.Denied{
			Reason: fetch.ReasonDestinationDenied, Rule: r.name, Check: "body", Message: message,
			Hint: q.next("Send less, or ask " + r.whom() + " for a higher limits.max_request_body_bytes."),
		}
	}
	return nil
}
