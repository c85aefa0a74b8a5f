package main

import (
	"fmt"
	"slices"
	"strings"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// moreSays begins the command that a hint of policy ends with. The service knows
// only the origin and the method, and not how it was asked.
const moreSays = "More: fetchgate explain "

// withoutMore is a hint without the command at its end.
func withoutMore(hint string) string {
	hint, _, _ = strings.Cut(hint, moreSays)
	return strings.TrimSuffix(hint, " ")
}

// explainLine is the command line that has the service explain what it decides
// about request, asked as it was for the fetch. Of fields it has the names alone,
// by which rules go; their values may be secrets, as may those of inline
// credentials, which it leaves out. It is empty where a terminal could not show it.
func (c *getCommand) explainLine(name program, request *fetchgatev1.HttpRequest) string {
	words := []string{string(name), "explain"}
	flag := func(name, value string) {
		if value != "" {
			words = append(words, name, shellWord(value))
		}
	}
	if c.Address != defaultAddress {
		flag("--address", c.Address)
	}
	if c.TLS {
		words = append(words, "--tls")
	}
	flag("--ca", c.CA)
	flag("--cert", c.Cert)
	flag("--key", c.Key)
	flag("--token-file", c.TokenFile)
	if method := request.GetMethod(); method != "GET" {
		flag("-X", method)
	}
	flag("--request-target", request.GetRawTarget())
	if c.Verbatim {
		words = append(words, "--verbatim")
	}
	for _, held := range c.Credential {
		flag("--credential", held)
	}
	for _, f := range request.GetHeaders() {
		if !c.Verbatim || !isFraming(f.GetName()) {
			flag("-H", f.GetName()+":")
		}
	}
	line := strings.Join(append(words, shellWord(request.GetUrl())), " ")
	if escaped(line) != line {
		return ""
	}
	return line
}

// isFraming tells the fields of a verbatim request whose values have to be those
// that are sent anyway.
func isFraming(name string) bool {
	return slices.Contains([]string{"host", "content-length", "transfer-encoding", "connection", "expect", "te", "trailer"}, strings.ToLower(name))
}

// shellWord is text as one word of a command line.
func shellWord(text string) string {
	isPlain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("_-./:@%+,=", r)
	}
	if text != "" && strings.TrimFunc(text, isPlain) == "" {
		return text
	}
	return fmt.Sprintf("'%s'", strings.ReplaceAll(text, "'", `'\''`))
}
