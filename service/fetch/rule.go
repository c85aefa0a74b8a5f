package fetch

import (
	"slices"
	"time"
)

// Asked is what of a plan its request says. The rest are the server's defaults,
// which a rule may replace.
type Asked struct {
	// Timeouts are those that the request names; zero: it does not.
	Timeouts Timeouts
	// Attempts, Conditions and BodyBytes tell that it names the most attempts,
	// the conditions of a retry, the largest response body.
	Attempts, Conditions, BodyBytes bool
}

// RuleSettings are what the rule of a hop says about how it is carried out. nil
// says nothing. They do not change.
type RuleSettings struct {
	// Timeouts replace defaults; zero says nothing. Attempt and Total are for
	// the rule of the first hop.
	Timeouts Timeouts
	// MaxAttempts and RetryOn replace defaults, by the rule of the first hop; 0
	// says nothing.
	MaxAttempts int
	RetryOn     RetryConditions
	// MaxResponseBodyBytes and MaxRequestBodyBytes are the most bytes of a body;
	// Unbounded says nothing.
	MaxResponseBodyBytes int64
	MaxRequestBodyBytes  int64
	// TLS is the profile of its handshakes; nil says nothing.
	TLS *TLSSettings
	// Set are fields that go out in the place of the request's of the same name,
	// Remove the names of those that do not go out.
	Set    []Field
	Remove []string
}

// Lead returns plan with what s, of the first hop, says about the whole fetch:
// the attempt and total timeouts and retries. A stream has no default of total
// that could be replaced, a verbatim request no retry. plan is not changed.
func (s *RuleSettings) Lead(plan *Plan) *Plan {
	if s == nil {
		return plan
	}
	led := *plan
	replace(&led.Timeouts.Attempt, plan.Asked.Timeouts.Attempt, s.Timeouts.Attempt)
	if plan.Timeouts.Total > 0 {
		replace(&led.Timeouts.Total, plan.Asked.Timeouts.Total, s.Timeouts.Total)
	}
	if s.MaxAttempts > 0 && !plan.Asked.Attempts && !plan.Verbatim {
		led.Retry.MaxAttempts = s.MaxAttempts
	}
	if s.RetryOn != 0 && !plan.Asked.Conditions && !plan.Verbatim {
		led.Retry.Conditions = s.RetryOn
	}
	return &led
}

// replace sets a timeout to what the rule says, unless the request has asked.
func replace(timeout *time.Duration, asked, rule time.Duration) {
	if asked == 0 && rule > 0 {
		*timeout = rule
	}
}

// HopTimeouts are those of a hop of plan.
func (s *RuleSettings) HopTimeouts(plan *Plan) Timeouts {
	t := plan.Timeouts
	if s == nil {
		return t
	}
	asked, rule := plan.Asked.Timeouts, s.Timeouts
	replace(&t.Pool, asked.Pool, rule.Pool)
	replace(&t.DNS, asked.DNS, rule.DNS)
	replace(&t.Connect, asked.Connect, rule.Connect)
	replace(&t.TLS, asked.TLS, rule.TLS)
	replace(&t.Head, asked.Head, rule.Head)
	replace(&t.Idle, asked.Idle, rule.Idle)
	replace(&t.Write, asked.Write, rule.Write)
	return t
}

// HopTLS are the settings of the TLS handshake of a hop of plan. They ask for as
// much as the plan's, or for more.
func (s *RuleSettings) HopTLS(plan *Plan) TLSSettings {
	if s == nil {
		return plan.TLS
	}
	return plan.TLS.With(s.TLS)
}

// HopResponse says what to do with the response of a hop of plan, and clamped
// that the request asked for a larger body than the rule allows.
func (s *RuleSettings) HopResponse(plan *Plan) (r ResponsePlan, clamped bool) {
	r = plan.Response
	if s == nil || s.MaxResponseBodyBytes >= r.MaxBodyBytes {
		return r, false
	}
	r.MaxBodyBytes, r.TooLarge = s.MaxResponseBodyBytes, ReasonBodyTooLarge
	return r, plan.Asked.BodyBytes
}

// Kept are those of fields that the rule does not remove.
func (s *RuleSettings) Kept(fields []Field) []Field {
	if s == nil || len(s.Remove) == 0 {
		return fields
	}
	return slices.DeleteFunc(slices.Clone(fields), func(f Field) bool {
		return slices.ContainsFunc(s.Remove, func(name string) bool { return Alike(name, f.Name) })
	})
}

// Sets tells that the rule sets the field called name.
func (s *RuleSettings) Sets(name string) bool {
	return s != nil && slices.ContainsFunc(s.Set, func(f Field) bool { return Alike(f.Name, name) })
}

// Fields are those of a hop with what the rule sets and without what it removes.
func (s *RuleSettings) Fields(fields []Field) []Field {
	if s == nil || len(s.Set) == 0 {
		return s.Kept(fields)
	}
	return append(s.Trailers(fields), s.Set...)
}

// Trailers are those of a hop without what the rule sets, which is in the head,
// and what it removes.
func (s *RuleSettings) Trailers(fields []Field) []Field {
	if s == nil || len(s.Set) == 0 {
		return s.Kept(fields)
	}
	return slices.DeleteFunc(slices.Clone(s.Kept(fields)), func(f Field) bool { return s.Sets(f.Name) })
}
