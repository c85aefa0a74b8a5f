package main

import (
	"fmt"
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
// by which rules go; their values may be secrets. It is empty where explain cannot
// ask the same, or a terminal could not show it.
func (c *getCommand) explainLine(name program, request *fetchgatev1.HttpRequest) string {
	if c.Verbatim {
		return ""
	}
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
	for _, f := range request.GetHeaders() {
		flag("-H", f.GetName()+":")
	}
	line := strings.Join(append(words, shellWord(request.GetUrl())), " ")
	if escaped(line) != line {
		return ""
	}
	return line
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
