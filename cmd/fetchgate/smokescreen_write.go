package main

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// write writes the configuration, with comments.
func (m *imported) write(out io.Writer, acl string, from identitySource) {
	w := importWriter{out}
	w.comments("", []string{
		"From " + acl + `, an ACL of smokescreen, by "fetchgate policy import".`,
		"",
		`Next: put in what "` + fillIn + `" stands for ("fetchgate check" names each place), and`,
		`write down what has to hold as cases for "fetchgate policy test".`,
		"",
		"What is narrower here. Each can be opened in the rule that needs it:",
		"- Ports: smokescreen asks for none. Rules without ports are for https on 443 and",
		"  http on 80; --port writes others into every rule.",
		"- Addresses that are not public: what smokescreen has in allow_ranges and",
		"  allow_addresses is allow_addresses of a rule; deny_ranges is deny_addresses.",
		"- Names that mean something else in every network (one label, .internal, .local):",
		"  a rule has to name them one by one.",
	})
	if from != (identitySource{}) {
		fmt.Fprint(out, `
# The authorities of the callers' certificates. Other machines reach the server by
# grpc.address, "0.0.0.0:7801".
grpc:
  tls:
    cert_file: server.crt
    key_file: server.key
    client_ca_file: callers-ca.crt
`)
	} else {
		fmt.Fprint(out, "\n# Callers show tokens, \"fetchgate token\" makes one and its digest. Beyond 127.0.0.1\n# that needs grpc.tls.\n")
	}
	fmt.Fprintln(out, "callers:")
	for _, c := range m.callers {
		w.item(c.comments, "name", c.GetName())
		w.text("owner", c.GetOwner())
		w.texts("spiffe_ids", c.GetSpiffeIds())
		w.texts("dns_names", c.GetDnsNames())
		w.texts("token_sha256", c.GetTokenSha256())
	}
	fmt.Fprint(out, "\n# What no rule allows is denied, and a rule that denies wins.\n")
	if len(m.rules) > 0 {
		fmt.Fprintln(out, "rules:")
	}
	for _, r := range m.rules {
		w.rule(r)
	}
	w.comments("  ", m.left)
}

type importWriter struct{ out io.Writer }

func (w importWriter) rule(r importedRule) {
	w.item(r.comments, "name", r.GetName())
	w.text("owner", r.GetOwner())
	w.text("action", r.GetAction())
	w.text("mode", r.GetMode())
	w.texts("callers", r.GetCallers())
	if origins := r.GetOrigins(); len(origins) <= 2 {
		w.texts("origins", origins)
	} else {
		fmt.Fprintln(w.out, "    origins:")
		for _, origin := range origins {
			fmt.Fprintf(w.out, "      - %s\n", quotedText(origin))
		}
	}
	if len(r.GetPorts()) > 0 {
		fmt.Fprintf(w.out, "    ports: %s\n", strings.ReplaceAll(fmt.Sprint(r.GetPorts()), " ", ", "))
	}
	w.text("when", r.GetWhen())
	if set := r.GetSetFields(); len(set) > 0 {
		fmt.Fprintln(w.out, "    set_fields:")
		for _, name := range slices.Sorted(maps.Keys(set)) {
			fmt.Fprintf(w.out, "      %s: %s\n", quotedText(name), quotedText(set[name]))
		}
	}
}

// comments writes texts that may hold anything, each on one line.
func (w importWriter) comments(indent string, texts []string) {
	for _, text := range texts {
		fmt.Fprintf(w.out, "%s%s\n", indent, strings.TrimSpace("# "+escaped(text)))
	}
}

// item begins an item of a list.
func (w importWriter) item(comments []string, key, value string) {
	fmt.Fprintln(w.out)
	w.comments("  ", comments)
	fmt.Fprintf(w.out, "  - %s: %s\n", key, plainText(value))
}

func (w importWriter) text(key, value string) {
	if value != "" {
		fmt.Fprintf(w.out, "    %s: %s\n", key, plainText(value))
	}
}

func (w importWriter) texts(key string, values []string) {
	var texts []string
	for _, value := range values {
		texts = append(texts, plainText(value))
	}
	if len(texts) > 0 {
		fmt.Fprintf(w.out, "    %s: [%s]\n", key, strings.Join(texts, ", "))
	}
}

// isPlain is what YAML takes for a text without quotes, but for notPlain.
var (
	isPlain  = regexp.MustCompile(`^[a-z][a-z0-9._/-]*$`)
	notPlain = []string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
)

// plainText is a text in YAML, as plain as it can be.
func plainText(text string) string {
	switch {
	case isPlain.MatchString(text) && !slices.Contains(notPlain, text):
		return text
	case strings.Contains(text, `"`) && isPrintable(text):
		return "'" + strings.ReplaceAll(text, "'", "''") + "'"
	}
	return quotedText(text)
}

func isPrintable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}
