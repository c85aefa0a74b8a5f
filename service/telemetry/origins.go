package telemetry

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// origins gives each origin its label: the pattern of the configuration that
// matches it best. Hosts come from callers and upstreams, so they are never
// labels themselves.
type origins struct {
	vocabulary
	exact map[fetch.Origin]int
	// below are the patterns "*.HOST" by HOST, and those of any host by "".
	below map[fetch.Origin]int
}

// newOrigins has the origins that telemetry names, then those of rules in their
// order, maxOrigins in all.
func newOrigins(c *configv1.Config) (*origins, error) {
	o := &origins{vocabulary: newVocabulary(), exact: map[fetch.Origin]int{}, below: map[fetch.Origin]int{}}
	for i, text := range c.GetTelemetry().GetOrigins() {
		if err := o.name(text, nil); err != nil {
			return nil, fmt.Errorf("telemetry.origins[%d]: %w", i, err)
		}
	}
	for i, rule := range c.GetRules() {
		for j, text := range rule.GetOrigins() {
			if err := o.name(text, rule.GetPorts()); err != nil {
				return nil, fmt.Errorf("rules[%d].origins[%d]: %w", i, j, err)
			}
		}
	}
	return o, nil
}

// name gives the origin pattern text labels of its own, one for each of ports if
// it names none itself.
func (o *origins) name(text string, ports []int32) error {
	scheme, host, found := strings.Cut(text, "://")
	if !found {
		return errors.New(`write an origin like "https://api.example.com"`)
	}
	star := ""
	if host == "*" || strings.HasPrefix(host, "*:") {
		// Any name will do to have the port parsed.
		star, host = "*", "any"+host[1:]
	} else if rest, isWildcard := strings.CutPrefix(host, "*."); isWildcard {
		star, host = "*.", rest
	}
	d, err := fetch.ParseURL(scheme + "://" + host)
	if err != nil {
		return fmt.Errorf("%.100q is not an origin: %w", text, err)
	}
	if star == "*" {
		d.Host = ""
	}
	if len(ports) == 0 || strings.Contains(host[strings.LastIndexByte(host, ']')+1:], ":") {
		o.enter(star, d.Origin)
		return nil
	}
	for _, port := range ports {
		d.Port = uint16(port)
		o.enter(star, d.Origin)
	}
	return nil
}

func (o *origins) enter(star string, to fetch.Origin) {
	if len(o.values) > maxOrigins {
		return // one of them is other
	}
	label := to.Scheme + "://" + star + strings.TrimPrefix(to.String(), to.Scheme+"://")
	if star == "" {
		o.exact[to] = o.add(label)
	} else {
		o.below[to] = o.add(label)
	}
}

// of returns the place of the label of an origin: an exact one goes before a
// wildcard, a longer wildcard before a shorter.
func (o *origins) of(to fetch.Origin) int {
	if place, named := o.exact[to]; named {
		return place
	}
	if len(o.below) == 0 {
		return o.rest
	}
	for to.Host != "" {
		_, to.Host, _ = strings.Cut(to.Host, ".")
		if place, named := o.below[to]; named {
			return place
		}
	}
	return o.rest
}

// appendOrigin appends the origin, always with its port, without an allocation.
func appendOrigin(b []byte, o fetch.Origin) []byte {
	b = append(append(b, o.Scheme...), "://"...)
	if strings.Contains(o.Host, ":") {
		b = append(append(append(b, '['), o.Host...), ']')
	} else {
		b = append(b, o.Host...)
	}
	return strconv.AppendUint(append(b, ':'), uint64(o.Port), 10)
}
