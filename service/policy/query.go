package policy

import (
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// anyValue is what stands for every value of a query parameter.
const anyValue = "*"

// param is a query parameter that a rule names.
type param struct{ name, value string }

func compileQuery(path string, in map[string]string, f *faults) []param {
	var all []param
	for _, name := range slices.Sorted(maps.Keys(in)) {
		if name == "" {
			f.add(path, "a parameter needs a name")
			continue
		}
		all = append(all, param{name, in[name]})
	}
	return all
}

// takesQuery reports whether a query has every parameter that the rule names. An
// upstream may take any of several values of one name, and ';' for what stands
// between two: a rule that allows needs each to be the one that it names, however
// the query is read, a rule that denies only one.
func (r *rule) takesQuery(q *question) bool {
	if len(r.query) == 0 {
		return true
	}
	query := q.ask.Destination.RawQuery()
	return !slices.ContainsFunc(r.query, func(p param) bool {
		narrow, wide := p.isIn(query, r.deny, false), p.isIn(query, r.deny, true)
		return !(narrow && wide || r.deny && (narrow || wide))
	})
}

// isIn reports whether the query has p: if once, with one of its values, else
// with all of them. wide is as for pairs.
func (p param) isIn(query string, once, wide bool) bool {
	found := false
	for name, value := range pairs(query, wide) {
		if !isForm(name, p.name) {
			continue
		}
		fits := p.value == anyValue || isForm(value, p.value)
		if once && fits {
			return true
		}
		if !once && !fits {
			return false
		}
		found = found || fits
	}
	return found
}

// pairs yields the names and values of a query as they are sent. Old servers also
// take ';' for what stands between two; wide reads it so.
func pairs(query string, wide bool) iter.Seq2[string, string] {
	separators := "&"
	if wide {
		separators = "&;"
	}
	return func(yield func(string, string) bool) {
		for query != "" {
			part := query
			if end := strings.IndexAny(query, separators); end >= 0 {
				part, query = query[:end], query[end+1:]
			} else {
				query = ""
			}
			name, value, _ := strings.Cut(part, "=")
			if part != "" && !yield(name, value) {
				return
			}
		}
	}
}

// isForm reports whether sent is text in application/x-www-form-urlencoded.
func isForm(sent, text string) bool {
	for sent != "" {
		c, n := decodedByte(sent)
		if sent[0] == '+' {
			c = ' '
		}
		if text == "" || text[0] != c {
			return false
		}
		sent, text = sent[n:], text[1:]
	}
	return text == ""
}

// formText decodes application/x-www-form-urlencoded. What is no UTF-8 then is
// replaced, as CEL has no other texts.
func formText(sent string) string { return strings.ToValidUTF8(formBytes(sent), "\uFFFD") }

// formBytes decodes application/x-www-form-urlencoded.
func formBytes(sent string) string { return decoded(strings.ReplaceAll(sent, "+", " ")) }

// takesFields reports whether the request has all the fields that the rule
// names.
func (r *rule) takesFields(q *question) bool {
	return !slices.ContainsFunc(r.headers, func(name string) bool {
		_, there := fetch.Get(q.ask.Fields, name)
		return !there
	})
}

func hasUnderscore(fields []fetch.Field) bool {
	return slices.ContainsFunc(fields, func(f fetch.Field) bool { return strings.IndexByte(f.Name, '_') >= 0 })
}
