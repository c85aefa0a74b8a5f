package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/retry"
)

// reservedRules are the names of decisions that no rule makes.
var reservedRules = []string{"default", "default-deny"}

// check returns what is wrong with a configuration whose every value is in its
// range, and reads the files that it names.
func (l *Loaded) check() []Problem {
	var problems []Problem
	refuse := func(path, message string) {
		problems = append(problems, l.places.find(path).problem(path, message))
	}
	if err := l.CheckListen(l.GRPCAddress()); err != nil {
		refuse("grpc.address", err.Error())
	}
	if a := l.HTTPAddress(); a == l.GRPCAddress() && !strings.HasSuffix(a, ":0") {
		refuse("http.address", a+" is that of grpc.address too; give each listener its own")
	}
	l.checkUnix(refuse)
	l.checkCallers(refuse)
	l.checkRules(refuse)
	l.checkCredentials(refuse)
	l.checkTimeouts(refuse)
	l.checkEvidence(refuse)
	l.readAuthorities(refuse)
	l.checkProfiles(refuse)
	l.checkListenerTLS(refuse)
	return problems
}

// CheckListen refuses a gRPC address beyond loopback if the configuration names
// no callers, since everyone who reaches it could then call, or if callers would
// send tokens to it without TLS. The address is
// HOST:PORT; an empty host means every interface. It is for an address that
// comes from elsewhere than the file, which was checked when it was loaded.
func (l *Loaded) CheckListen(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not HOST:PORT; write it as 127.0.0.1:7801", address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("the port of %q is not a number from 0 to 65535", address)
	}
	switch {
	case isLoopback(host):
		return nil
	case len(l.Config.GetCallers()) > 0:
		return l.checkClear(address)
	}
	return errors.New("listening on " + address + " lets everyone who reaches it call, and no callers are named; " +
		`listen on 127.0.0.1, or add "callers: [{name: everyone, dangerous_anonymous: true}]"`)
}

// isLoopback does not resolve names: only one of them is sure to be local
// (RFC 6761 section 6.3).
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

func (l *Loaded) checkRules(refuse func(path, message string)) {
	seen, callers := map[string]bool{}, map[string]bool{}
	for _, caller := range l.Config.GetCallers() {
		callers[caller.GetName()] = true
	}
	if len(callers) == 0 {
		callers[anonymousCaller] = true
	}
	for i, rule := range l.Config.GetRules() {
		path, name := fmt.Sprintf("rules[%d].name", i), rule.GetName()
		switch {
		case slices.Contains(reservedRules, name):
			refuse(path, fmt.Sprintf("%q is what decisions without a rule are called; choose another name", name))
		case seen[name]:
			refuse(path, fmt.Sprintf("another rule is called %q; choose another name", name))
		}
		seen[name] = true
		checkRuleCallers(i, rule, callers, refuse)
		checkRuleRetry(i, rule, refuse)
	}
}

// anonymousCaller is who calls where the configuration names nobody.
const anonymousCaller = "anonymous"

// checkRuleCallers refuses the names of callers that are not there: the rule
// would be for nobody, and nobody would see why.
func checkRuleCallers(i int, rule *configv1.Rule, known map[string]bool, refuse func(path, message string)) {
	for j, name := range rule.GetCallers() {
		if !known[name] {
			refuse(fmt.Sprintf("rules[%d].callers[%d]", i, j), fmt.Sprintf("no caller is called %q%s", name, meant(name, known)))
		}
	}
}

// checkRuleRetry refuses words that no condition of a retry is spelled by.
func checkRuleRetry(i int, rule *configv1.Rule, refuse func(path, message string)) {
	known := map[string]bool{}
	for _, word := range retry.Words() {
		known[word] = true
	}
	for j, word := range rule.GetRetry().GetConditions() {
		if !known[word] {
			refuse(fmt.Sprintf("rules[%d].retry.conditions[%d]", i, j), fmt.Sprintf("no condition of a retry is called %q%s", word, meant(word, known)))
		}
	}
}

// checkTimeouts refuses a default that the file sets above the maximum, one of
// the server or of a rule. A default that the file does not set follows the
// maximum down.
func (l *Loaded) checkTimeouts(refuse func(path, message string)) {
	limits := l.Limits()
	l.checkDefaults("limits.timeouts.", phases(l.Config.GetLimits().GetTimeouts(), &limits.Timeouts), refuse)
	for i, rule := range l.Config.GetRules() {
		var own fetch.Timeouts
		list := phases(rule.GetTimeouts(), &own)
		for _, p := range list {
			setDuration(p.limit, p.set)
		}
		l.checkDefaults(fmt.Sprintf("rules[%d].timeouts.", i), list, refuse)
	}
}

// checkDefaults holds the timeouts that are set at a path to their maxima.
func (l *Loaded) checkDefaults(path string, timeouts []phase, refuse func(path, message string)) {
	limits := l.Limits()
	maxima := phases(l.Config.GetLimits().GetMaxTimeouts(), &limits.MaxTimeouts)
	for i, p := range timeouts {
		most := maxima[i]
		if p.set == nil || *p.limit <= *most.limit {
			continue
		}
		origin := "as set in this file"
		if most.set == nil {
			origin = "by default"
		}
		refuse(path+p.name, fmt.Sprintf("is %s, above limits.max_timeouts.%s, which is %s %s; lower the one or raise the other",
			seconds(*p.limit), p.name, seconds(*most.limit), origin))
	}
}
