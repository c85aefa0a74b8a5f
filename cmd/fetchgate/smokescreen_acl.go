package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The keys of an ACL of smokescreen, version v1.
var (
	aclKeys     = []string{"version", "services", "default", "global_deny_list", "global_allow_list"}
	aclRuleKeys = []string{"name", "project", "action", "allowed_domains", "mitm_domains", "allowed_domains_mitm", "allowed_external_proxies"}
	aclMITMKeys = []string{"domain", "add_headers", "detailed_http_logs", "detailed_http_logs_full_headers"}
)

// aclActions are what smokescreen does with a host that no list has.
var aclActions = []string{"enforce", "report", "open"}

// acl is an ACL of smokescreen. It has services or a fallback.
type acl struct {
	services []*aclRule
	// fallback is the rule of clients without one; nil: they are denied.
	fallback    *aclRule
	deny, allow []aclText
}

// aclRule is what the clients of one role may reach.
type aclRule struct {
	name, project, action aclText
	allowed               []aclText
	mitm                  []aclMITM
	proxies               []aclText
}

// aclMITM is a domain whose TLS smokescreen ends, to change and to log requests.
type aclMITM struct {
	domain aclText
	add    []aclField
	logs   int // the line of a setting for logs; 0: none
}

type aclField struct{ name, value aclText }

// aclText is a text and its line.
type aclText struct {
	text string
	line int
}

// aclReader reads an ACL. It stops at the first thing that is wrong, and yields
// nothing from then on.
type aclReader struct {
	file string
	err  error // begins with the place in the file
}

// readACL reads the text of an ACL. What smokescreen would not take, and keys
// that it has not or takes without a word, are refused.
func readACL(file string, text []byte) (*acl, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, second yaml.Node
	switch err := decoder.Decode(&document); {
	case err == io.EOF:
		return nil, fmt.Errorf("%s is empty", file)
	case err != nil:
		return nil, fmt.Errorf("%s is not YAML: %w", file, err)
	}
	if err := decoder.Decode(&second); err != io.EOF {
		return nil, fmt.Errorf("%s holds more than one YAML document; keep one", file)
	}
	r := &aclReader{file: file}
	a := r.acl(document.Content[0])
	return a, r.err
}

func (r *aclReader) refuse(n *yaml.Node, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%s:%d:%d: %s", r.file, n.Line, n.Column, fmt.Sprintf(format, args...))
	}
}

func (r *aclReader) acl(n *yaml.Node) *acl {
	top := r.keys(n, aclKeys)
	if version := top["version"]; version == nil || version.Value != "v1" {
		r.refuse(n, `it needs "version: v1"; no other is known`)
	}
	a := &acl{deny: r.texts(top["global_deny_list"]), allow: r.texts(top["global_allow_list"])}
	first := map[string]int{}
	for _, item := range r.items(top["services"]) {
		rule := r.rule(item)
		switch line := first[rule.name.text]; {
		case rule.name.text == "":
			r.refuse(item, "a service needs a name")
		case line > 0:
			r.refuse(item, "the service %q stands in line %d already; keep one", rule.name.text, line)
		}
		first[rule.name.text] = item.Line
		a.services = append(a.services, rule)
	}
	if own := top["default"]; own != nil && !isNothing(own) {
		a.fallback = r.rule(own)
	}
	if len(a.services) == 0 && a.fallback == nil {
		r.refuse(n, "it has no services and no default, so that it denies everything")
	}
	return a
}

func (r *aclReader) rule(n *yaml.Node) *aclRule {
	values := r.keys(n, aclRuleKeys)
	rule := &aclRule{
		name: r.text(values["name"]), project: r.text(values["project"]), action: r.text(values["action"]),
		allowed: r.texts(values["allowed_domains"]), proxies: r.texts(values["allowed_external_proxies"]),
	}
	if !slices.Contains(aclActions, rule.action.text) {
		r.refuse(n, "its action is %q; write one of %s", rule.action.text, strings.Join(aclActions, ", "))
	}
	for _, key := range []string{"mitm_domains", "allowed_domains_mitm"} {
		for _, item := range r.items(values[key]) {
			m := r.mitm(item)
			rule.mitm = append(rule.mitm, m)
			isAllowed := slices.ContainsFunc(rule.allowed, func(t aclText) bool { return t.text == m.domain.text })
			switch {
			case key == "allowed_domains_mitm":
				rule.allowed = append(rule.allowed, m.domain) // it allows by itself
			case !isAllowed:
				r.refuse(item, "%q is not among allowed_domains, where smokescreen wants it too", m.domain.text)
			}
		}
	}
	return rule
}

func (r *aclReader) mitm(n *yaml.Node) aclMITM {
	values := r.keys(n, aclMITMKeys)
	m := aclMITM{domain: r.text(values["domain"])}
	if m.domain.text == "" {
		r.refuse(n, "it needs a domain")
	}
	if add := values["add_headers"]; add != nil && !isNothing(add) {
		texts := r.keys(add, nil)
		for i := 0; i < len(add.Content) && r.err == nil; i += 2 {
			name := add.Content[i]
			m.add = append(m.add, aclField{aclText{name.Value, name.Line}, r.text(texts[name.Value])})
		}
	}
	for _, key := range aclMITMKeys[2:] {
		if v := values[key]; v != nil && v.Value != "false" {
			m.logs = v.Line
		}
	}
	return m
}

// keys are the values of a mapping by their keys, each there once; with none
// known, any may be there.
func (r *aclReader) keys(n *yaml.Node, known []string) map[string]*yaml.Node {
	values := map[string]*yaml.Node{}
	if n.Kind != yaml.MappingNode {
		r.refuse(n, "it needs keys with values")
		return values
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case values[key.Value] != nil:
			r.refuse(key, "%q is there twice; keep one", key.Value)
		case known != nil && !slices.Contains(known, key.Value):
			r.refuse(key, "unknown key %q; %s", key.Value, meantOf(key.Value, known))
		}
		values[key.Value] = aliased(n.Content[i+1])
	}
	return values
}

// items are those of a list, which may be absent.
func (r *aclReader) items(n *yaml.Node) []*yaml.Node {
	switch {
	case n == nil || isNothing(n) || r.err != nil:
		return nil
	case n.Kind != yaml.SequenceNode:
		r.refuse(n, "it needs a list")
		return nil
	}
	var items []*yaml.Node
	for _, item := range n.Content {
		items = append(items, aliased(item))
	}
	return items
}

// texts are those of a list, which may be absent.
func (r *aclReader) texts(n *yaml.Node) []aclText {
	var texts []aclText
	for _, item := range r.items(n) {
		text := r.text(item)
		if text.text == "" {
			r.refuse(item, "an item is empty")
		}
		texts = append(texts, text)
	}
	return texts
}

// text is a text, which may be absent.
func (r *aclReader) text(n *yaml.Node) aclText {
	switch {
	case n == nil || isNothing(n):
		return aclText{}
	case n.Kind != yaml.ScalarNode:
		r.refuse(n, "it needs a text")
	}
	return aclText{n.Value, n.Line}
}

// aliased is what stands where an alias does.
func aliased(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNothing(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }
