package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// caseKeys are what a case can say.
var caseKeys = []string{"name", "caller", "method", "url", "headers", "labels", "expect", "rule"}

// caseReader reads cases that are asked of rules. Its errors begin with the place
// in the file.
type caseReader struct {
	file  string
	rules *rulebook
}

// readCases reads the text of a file of cases. There is at least one.
func readCases(file string, text []byte, rules *rulebook) ([]*policyCase, error) {
	r := caseReader{file, rules}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("%s is not YAML: %w", file, err)
	}
	if len(document.Content) == 0 {
		return nil, fmt.Errorf("%s is empty", file)
	}
	top, err := r.keys(document.Content[0], []string{"cases"})
	if err != nil {
		return nil, err
	}
	list := top["cases"]
	if list == nil || list.Kind != yaml.SequenceNode || len(list.Content) == 0 {
		return nil, r.wrong(document.Content[0], `it needs "cases:" with a list below it`)
	}
	var cases []*policyCase
	for _, n := range list.Content {
		one, err := r.one(n)
		if err != nil {
			return nil, err
		}
		cases = append(cases, one)
	}
	return cases, nil
}

func (r *caseReader) at(n *yaml.Node) string {
	return fmt.Sprintf("%s:%d:%d", r.file, n.Line, n.Column)
}

func (r *caseReader) wrong(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%s: %s", r.at(n), fmt.Sprintf(format, args...))
}

// keys are the values of a mapping by their keys, each of which must be known;
// with none known, any may be there.
func (r *caseReader) keys(n *yaml.Node, known []string) (map[string]*yaml.Node, error) {
	if n.Kind != yaml.MappingNode {
		return nil, r.wrong(n, "it needs keys with values")
	}
	values := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case values[key.Value] != nil:
			return nil, r.wrong(key, "%q is there twice; keep one", key.Value)
		case known != nil && !slices.Contains(known, key.Value):
			return nil, r.wrong(key, "unknown key %q; %s", key.Value, meantOf(key.Value, known))
		}
		values[key.Value] = n.Content[i+1]
	}
	return values, nil
}

func meantOf(typed string, known []string) string {
	if near := nearest(typed, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "known are " + strings.Join(known, ", ")
}

func (r *caseReader) one(n *yaml.Node) (*policyCase, error) {
	values, err := r.keys(n, caseKeys)
	if err != nil {
		return nil, err
	}
	texts := map[string]string{}
	for key, value := range values {
		if key == "headers" || key == "labels" {
			continue
		}
		if value.Kind != yaml.ScalarNode || value.Value == "" {
			return nil, r.wrong(value, "%s needs a text", key)
		}
		texts[key] = value.Value
	}
	c := &policyCase{at: r.at(n), name: texts["name"], expect: texts["expect"], rule: texts["rule"]}
	if err := r.expected(n, values, c); err != nil {
		return nil, err
	}
	c.ask, err = r.ask(n, values, texts)
	return c, err
}

// expected checks what is to be decided.
func (r *caseReader) expected(n *yaml.Node, values map[string]*yaml.Node, c *policyCase) error {
	switch c.expect {
	case "allow", "deny":
	case "":
		return r.wrong(n, "the case needs expect: allow or expect: deny")
	default:
		return r.wrong(values["expect"], "%q is nothing that rules decide; write allow or deny", c.expect)
	}
	rules := []string{policy.DefaultDeny}
	for _, rule := range r.rules.policy.Rules() {
		rules = append(rules, rule.Name)
	}
	if c.rule != "" && !slices.Contains(rules, c.rule) {
		return r.wrong(values["rule"], "no rule is called %q; %s", c.rule, meantRule(c.rule, rules))
	}
	return nil
}

func meantRule(typed string, rules []string) string {
	if near := nearest(typed, rules); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "where no rule matches, it is " + policy.DefaultDeny
}

// ask is the request of a case.
func (r *caseReader) ask(n *yaml.Node, values map[string]*yaml.Node, texts map[string]string) (policy.Ask, error) {
	none := policy.Ask{}
	method := cmp.Or(texts["method"], "GET")
	if err := fetch.CheckMethod(method); err != nil {
		return none, r.wrong(values["method"], "%v", err)
	}
	if texts["url"] == "" {
		return none, r.wrong(n, "the case needs a url")
	}
	to, err := fetch.ParseURL(texts["url"])
	if err != nil {
		return none, r.wrong(values["url"], "%v", err)
	}
	callers := r.rules.callerNames()
	switch who := texts["caller"]; {
	case who == "" && len(callers) > 1:
		return none, r.wrong(n, "the case needs a caller, one of %s", strings.Join(callers, ", "))
	case who == "":
		texts["caller"] = callers[0]
	case !slices.Contains(callers, who):
		return none, r.wrong(values["caller"], "no caller is called %q; %s", who, meantOf(who, callers))
	}
	headers, err := r.texts(values["headers"])
	if err != nil {
		return none, err
	}
	labels, err := r.texts(values["labels"])
	if err != nil {
		return none, err
	}
	ask := policy.Ask{Caller: r.rules.caller(texts["caller"]), Method: method, Destination: to, Labels: labels}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		ask.Fields = append(ask.Fields, fetch.Field{Name: name, Value: []byte(headers[name])})
	}
	return ask, nil
}

// texts reads a mapping of texts, which may be absent.
func (r *caseReader) texts(n *yaml.Node) (map[string]string, error) {
	if n == nil {
		return nil, nil
	}
	values, err := r.keys(n, nil)
	if err != nil {
		return nil, err
	}
	texts := map[string]string{}
	for key, value := range values {
		if value.Kind != yaml.ScalarNode {
			return nil, r.wrong(value, "%q needs a text", key)
		}
		texts[key] = value.Value
	}
	return texts, nil
}
