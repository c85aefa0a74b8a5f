package retry

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// What a policy that does not say gets, and the most that one may say.
const (
	defaultBackoffBase   = 25 * time.Millisecond
	defaultBackoffFactor = 2
	defaultBackoffMax    = 2 * time.Second
	defaultBackoffJitter = 1
	defaultRetryAfterMax = 30 * time.Second

	highestBackoffBase   = 30 * time.Second
	highestBackoffFactor = 10
	highestBackoffMax    = 120 * time.Second
	highestRetryAfterMax = 5 * time.Minute

	// maxListed is the most entries of each list, maxNameBytes the longest name
	// of a field.
	maxListed    = 50
	maxNameBytes = 256
)

// Defaults are the server's own numbers of attempts, each at least 1.
type Defaults struct {
	// MaxAttempts is that of a policy that does not say, HighestAttempts the
	// most that one may say.
	MaxAttempts, HighestAttempts int
}

// Problem says which field of a request makes no sense and why.
type Problem struct {
	// Path is "options.retry.statuses[2]".
	Path    string
	Message string
}

// Parse returns the plan that m asks for, which may be nil; the paths of fields
// that were above their maximum and were lowered to it; and what is wrong with
// m. With a problem, the plan is not to be used.
func Parse(m *fetchgatev1.RetryPolicy, defaults Defaults) (fetch.RetryPlan, []string, []Problem) {
	p := parser{plan: fetch.RetryPlan{
		MaxAttempts: defaults.MaxAttempts, Conditions: DefaultConditions,
		Counts:      fetch.RetryCounts{Connect: -1, Read: -1, Status: -1, Other: -1},
		BackoffBase: defaultBackoffBase, BackoffFactor: defaultBackoffFactor,
		BackoffMax: defaultBackoffMax, BackoffJitter: defaultBackoffJitter,
		RespectRetryAfter: true, RetryAfterMax: defaultRetryAfterMax,
	}}
	if m == nil {
		return p.plan, nil, nil
	}
	p.attempts(m, defaults.HighestAttempts)
	p.conditions(m.GetConditions())
	p.statuses(m.GetStatuses())
	p.fields(m.GetResponseHeaders())
	p.methods(m.GetMethods())
	p.counts(m.GetCounts())
	p.backoff(m)
	p.retryAfter(m)
	p.exhausted(m)
	return p.plan, p.clamped, p.problems
}

// parser is a plan on its way, with what was lowered and what is wrong.
type parser struct {
	plan     fetch.RetryPlan
	clamped  []string
	problems []Problem
}

func pathOf(field string) string { return "options.retry." + field }

func (p *parser) wrong(field, format string, args ...any) {
	p.problems = append(p.problems, Problem{pathOf(field), fmt.Sprintf(format, args...)})
}

func (p *parser) attempts(m *fetchgatev1.RetryPolicy, highest int) {
	if m.MaxAttempts == nil {
		return
	}
	n := int(m.GetMaxAttempts())
	switch {
	case n < 1:
		p.wrong("max_attempts", "%d attempts send nothing; 1 switches retries off", n)
	case n > highest:
		p.clamped = append(p.clamped, pathOf("max_attempts"))
		p.plan.MaxAttempts = highest
	default:
		p.plan.MaxAttempts = n
	}
}

// tooMany tells that a list is too long to be looked at.
func (p *parser) tooMany(field string, n int) bool {
	if n > maxListed {
		p.wrong(field, "it has %d entries; at most %d are allowed", n, maxListed)
	}
	return n > maxListed
}

func (p *parser) conditions(m []fetchgatev1.RetryCondition) {
	if len(m) == 0 || p.tooMany("conditions", len(m)) {
		return
	}
	p.plan.Conditions = 0
	for i, name := range m {
		at := slices.IndexFunc(conditions, func(c condition) bool { return c.name == name })
		if at < 0 {
			p.wrong(fmt.Sprintf("conditions[%d]", i), "%v is no condition that this server knows", name)
			continue
		}
		p.plan.Conditions |= conditions[at].bit
	}
}

func (p *parser) statuses(m []int32) {
	p.belongs("statuses", len(m), fetch.RetryOnStatuses)
	if p.tooMany("statuses", len(m)) {
		return
	}
	for i, status := range m {
		if status < 100 || status > 999 {
			p.wrong(fmt.Sprintf("statuses[%d]", i), "%d is no status; they are 100 to 999", status)
		}
		p.plan.Statuses = append(p.plan.Statuses, int(status))
	}
}

// belongs holds a list to the condition that reads it: one without the other
// says nothing, and whoever wrote it meant something.
func (p *parser) belongs(field string, n int, to fetch.RetryConditions) {
	asked := p.plan.Conditions&to != 0
	i := slices.IndexFunc(conditions, func(c condition) bool { return c.bit == to })
	name := strings.TrimPrefix(conditions[i].name.String(), "RETRY_CONDITION_")
	switch {
	case n > 0 && !asked:
		p.wrong(field, "only the condition %s reads it; add that to conditions, or leave this out", name)
	case n == 0 && asked:
		p.wrong(field, "the condition %s needs at least one entry here", name)
	}
}

func (p *parser) fields(m []string) {
	p.belongs("response_headers", len(m), fetch.RetryOnFields)
	if p.tooMany("response_headers", len(m)) {
		return
	}
	for i, name := range m {
		if !fetch.IsToken(name) || len(name) > maxNameBytes {
			p.wrong(fmt.Sprintf("response_headers[%d]", i), "it is not a token of 1 to %d bytes, as the name of a field is (RFC 9110 section 5.1)", maxNameBytes)
		}
	}
	p.plan.Fields = slices.Clone(m)
}

func (p *parser) methods(m []string) {
	if len(m) == 0 || p.tooMany("methods", len(m)) {
		return
	}
	for i, method := range m {
		if err := fetch.CheckMethod(method); err != nil {
			p.wrong(fmt.Sprintf("methods[%d]", i), "%v", err)
		}
	}
	p.plan.Methods = slices.Clone(m)
}

func (p *parser) counts(m *fetchgatev1.RetryCounts) {
	counts := &p.plan.Counts
	p.count("counts.connect", m.GetConnect(), m != nil && m.Connect != nil, &counts.Connect)
	p.count("counts.read", m.GetRead(), m != nil && m.Read != nil, &counts.Read)
	p.count("counts.status", m.GetStatus(), m != nil && m.Status != nil, &counts.Status)
	p.count("counts.other", m.GetOther(), m != nil && m.Other != nil, &counts.Other)
}

func (p *parser) count(field string, n int32, set bool, to *int) {
	switch {
	case !set:
	case n < 0:
		p.wrong(field, "%d is below 0; 0 forbids retries of this kind", n)
	default:
		*to = int(n)
	}
}

func (p *parser) backoff(m *fetchgatev1.RetryPolicy) {
	p.duration("backoff_base", m.GetBackoffBase(), span{0, highestBackoffBase}, &p.plan.BackoffBase)
	p.duration("backoff_max", m.GetBackoffMax(), span{1, highestBackoffMax}, &p.plan.BackoffMax)
	if m.BackoffFactor != nil {
		if p.plan.BackoffFactor = m.GetBackoffFactor(); !within(p.plan.BackoffFactor, 1, highestBackoffFactor) {
			p.wrong("backoff_factor", "%v is not between 1 and %d", p.plan.BackoffFactor, highestBackoffFactor)
		}
	}
	if m.BackoffJitter != nil {
		if p.plan.BackoffJitter = m.GetBackoffJitter(); !within(p.plan.BackoffJitter, 0, 1) {
			p.wrong("backoff_jitter", "%v is not between 0 and 1", p.plan.BackoffJitter)
		}
	}
}

// within is false for NaN.
func within(v, least, most float64) bool { return v >= least && v <= most }

func (p *parser) retryAfter(m *fetchgatev1.RetryPolicy) {
	if m.RespectRetryAfter != nil {
		p.plan.RespectRetryAfter = m.GetRespectRetryAfter()
	}
	p.duration("retry_after_max", m.GetRetryAfterMax(), span{1, highestRetryAfterMax}, &p.plan.RetryAfterMax)
}

// span is from where to where a duration is allowed.
type span struct{ least, most time.Duration }

func (p *parser) duration(field string, m *durationpb.Duration, within span, to *time.Duration) {
	if m == nil {
		return
	}
	if m.CheckValid() != nil {
		p.wrong(field, "it is not a duration that protobuf allows")
		return
	}
	v := m.AsDuration()
	switch {
	case v < within.least && within.least > 0:
		p.wrong(field, "%v is not above 0; leave it out for the default", v)
	case v < within.least:
		p.wrong(field, "%v is below 0; 0 means no wait", v)
	case v > within.most:
		p.clamped = append(p.clamped, pathOf(field))
		*to = within.most
	default:
		*to = v
	}
}

func (p *parser) exhausted(m *fetchgatev1.RetryPolicy) {
	switch v := m.GetExhausted(); v {
	case fetchgatev1.RetriesExhausted_RETRIES_EXHAUSTED_UNSPECIFIED, fetchgatev1.RetriesExhausted_RETRIES_EXHAUSTED_LAST_OUTCOME:
	case fetchgatev1.RetriesExhausted_RETRIES_EXHAUSTED_FAILURE:
		p.plan.FailWhenExhausted = true
	default:
		p.wrong("exhausted", "this server knows LAST_OUTCOME and FAILURE, not %v", v)
	}
}
