package telemetry

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
)

// The most label values that come from a configuration; what is beyond them is
// "other".
const (
	maxCallers = 200
	maxRules   = 1000
	maxOrigins = 100

	maxCredentials = 200
)

// builtinRules are the names that policy gives to decisions that no rule of the
// configuration made.
var builtinRules = []string{"default", "default-deny"}

// Configuration is what the evidence says of the configuration that a fetch ran
// under.
type Configuration struct {
	// Config names the callers, rules and origins; nil means none.
	Config *configv1.Config
	// Locate returns the place in the file of a path such as "rules[2]",
	// "policy.yaml:41"; nil means that it is not known.
	Locate func(path string) string
	// Generation is its number, Digest its content's: "sha256:…".
	Generation int64
	Digest     string
	// Dangerous are the paths of the dangerous_ settings in force.
	Dangerous []string
}

// names are what a configuration names, and the handles of the metrics with such
// names in their labels. It does not change.
type names struct {
	generation  int64
	digest      string
	owners      map[string]string // by caller
	ruleAt      map[string]string // by rule
	anonymous   string            // who proves no identity; empty if nobody may
	callers     vocabulary
	rules       vocabulary
	credentials vocabulary
	origins     *origins
	nobody      int // the place of none in callers

	callerFetches *grid[prometheus.Counter]
	callerBytes   *grid[prometheus.Counter]
	decisions     *grid[prometheus.Counter]
	requests      *grid[prometheus.Counter]
	requestTime   *grid[prometheus.Observer]
	opened        *grid[prometheus.Counter]
	reuse         *grid[prometheus.Counter]
	notAfter      *grid[prometheus.Gauge]

	credentialUses, credentialEchoes *grid[prometheus.Counter]
}

func newNames(c Configuration, v *vectors) (*names, error) {
	n := &names{
		generation: c.Generation, digest: c.Digest,
		owners: map[string]string{}, ruleAt: map[string]string{},
		callers: newVocabulary(none), rules: newVocabulary(builtinRules...), credentials: newVocabulary(none),
	}
	n.nobody = n.callers.place(none)
	var err error
	if n.origins, err = newOrigins(c.Config); err != nil {
		return nil, err
	}
	for i, caller := range c.Config.GetCallers() {
		n.owners[caller.GetName()] = caller.GetOwner()
		if caller.GetDangerousAnonymous() {
			n.anonymous = caller.GetName()
		}
		if i < maxCallers {
			n.callers.add(caller.GetName())
		}
	}
	for i, rule := range c.Config.GetRules() {
		if c.Locate != nil {
			n.ruleAt[rule.GetName()] = c.Locate("rules[" + strconv.Itoa(i) + "]")
		}
		if i < maxRules {
			n.rules.add(rule.GetName())
		}
	}
	for i, held := range c.Config.GetCredentials() {
		if i < maxCredentials {
			n.credentials.add(held.GetName())
		}
	}
	n.resolve(v)
	return n, nil
}

func (n *names) resolve(v *vectors) {
	to := n.origins.vocabulary
	n.callerFetches = newGrid(v.callerFetches.WithLabelValues, n.callers, outcomes)
	n.callerBytes = newGrid(v.callerBytes.WithLabelValues, n.callers, directions)
	n.decisions = newGrid(v.decisions.WithLabelValues, n.rules, decisions)
	n.requests = newGrid(v.requests.WithLabelValues, to, statusClasses, reasons)
	n.requestTime = newGrid(v.requestTime.WithLabelValues, to)
	n.opened = newGrid(v.opened.WithLabelValues, to)
	n.reuse = newGrid(v.reuse.WithLabelValues, to, truths)
	n.notAfter = newGrid(v.notAfter.WithLabelValues, to)
	n.credentialUses = newGrid(v.credentialUses.WithLabelValues, n.credentials, kinds, usages)
	n.credentialEchoes = newGrid(v.credentialEchoes.WithLabelValues, n.credentials)
}

// caller returns the place of a caller's label. Who proved nothing and is nobody
// of the configuration is none.
func (n *names) caller(name string, anonymous bool) int {
	place := n.callers.place(name)
	if place == n.callers.rest && anonymous {
		return n.nobody
	}
	return place
}

// forget drops the series of names that next does not have.
func (n *names) forget(next *names, v *vectors) {
	gone := func(label string, was, is vocabulary, of ...*prometheus.MetricVec) {
		for _, value := range was.values {
			if _, stays := is.places[value]; stays {
				continue
			}
			for _, vector := range of {
				vector.DeletePartialMatch(prometheus.Labels{label: value})
			}
		}
	}
	gone("caller", n.callers, next.callers, v.callerFetches.MetricVec, v.callerBytes.MetricVec)
	gone("rule", n.rules, next.rules, v.decisions.MetricVec)
	gone("credential", n.credentials, next.credentials, v.credentialUses.MetricVec, v.credentialEchoes.MetricVec)
	gone("origin", n.origins.vocabulary, next.origins.vocabulary, v.requests.MetricVec, v.requestTime.MetricVec,
		v.opened.MetricVec, v.reuse.MetricVec, v.notAfter.MetricVec)
}

// describe sets what /metrics says of the configuration itself.
func (m *metrics) describe(c Configuration) {
	m.config.Reset()
	m.config.WithLabelValues(strconv.FormatInt(c.Generation, 10), cmp.Or(c.Digest, none)).Set(1)
	m.dangerous.Reset()
	for _, path := range c.Dangerous {
		m.dangerous.WithLabelValues(path[strings.LastIndexByte(path, '.')+1:]).Inc()
	}
}
