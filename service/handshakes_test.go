package service_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// TestHandshakesThatFail: each is counted by its cause; the log has the peer and
// the cause of the first, and does not grow with their number.
func TestHandshakesThatFail(t *testing.T) {
	m := serveMutual(t)
	stranger := fetchtest.NewAuthority(t).Issue(fetchtest.IssueOptions{})
	expired := m.authority.Issue(fetchtest.IssueOptions{NotAfter: time.Now().Add(-time.Minute)})
	good := m.authority.Issue(fetchtest.IssueOptions{})
	distrustful, old, elsewhere := m.as(&good), m.as(&good), m.as(&good)
	distrustful.RootCAs = fetchtest.NewAuthority(t).Pool()
	old.MinVersion, old.MaxVersion = tls.VersionTLS11, tls.VersionTLS11
	elsewhere.NextProtos = []string{"smtp"}
	for why, c := range map[string][]func(net.Conn) error{
		"no_certificate":  {shake(m.as(nil))},
		"bad_certificate": {shake(m.as(&stranger)), shake(m.as(&expired))},
		"not_tls":         {speak("GET / HTTP/1.1\r\nHost: \x1b[31m\r\n\r\n")},
		"distrusted":      {shake(distrustful)},
		"protocol":        {shake(old), shake(elsewhere)},
		"closed":          {func(net.Conn) error { return nil }},
	} {
		for _, try := range c {
			conn, err := net.Dial("tcp", m.GRPCAddress())
			if err != nil {
				t.Fatal(err)
			}
			if err := try(conn); err != nil {
				t.Errorf("%s: %v", why, err)
			}
			conn.Close()
		}
		m.wantCount(t, fmt.Sprintf("fetchgate_listener_handshake_failures_total{why=%q} %d", why, len(c)))
	}
	text := m.log.String()
	said := strings.Count(text, "a TLS handshake of a caller failed")
	if said < 1 || said > 5 || !strings.Contains(text, "peer=127.0.0.1:") || strings.Contains(text, "why=closed") {
		t.Errorf("the log says it %d times: %s", said, text)
	}
}

// wantCount waits for a line of /metrics.
func (s *server) wantCount(t *testing.T, line string) {
	t.Helper()
	eventually(t, func() error {
		_, page, err := s.get("/metrics")
		if err == nil && !strings.Contains(page, line+"\n") {
			err = errors.New("/metrics has no line " + line)
		}
		return err
	})
}

// shake is a handshake that the server does not let pass.
func shake(config *tls.Config) func(net.Conn) error {
	return func(c net.Conn) error {
		if config.NextProtos == nil {
			config.NextProtos = []string{"h2"}
		}
		secured := tls.Client(c, config)
		if _, err := io.ReadAll(secured); err == nil {
			return errors.New("it was let in")
		}
		return nil
	}
}

// speak says what is no handshake and waits for the end.
func speak(words string) func(net.Conn) error {
	return func(c net.Conn) error {
		if _, err := io.WriteString(c, words); err != nil {
			return err
		}
		_, _ = io.ReadAll(c) // an alert, or a reset
		return nil
	}
}

// TestHandshakeWordsAreOneList: the words for failed handshakes that the service
// has, those that are counted and those of docs/metrics.md are the same.
func TestHandshakeWordsAreOneList(t *testing.T) {
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("`fetchgate_listener_handshake_failures_total` \\| counter \\| why \\(([a-z_, ]+)\\)").FindSubmatch(page)
	if row == nil {
		t.Fatal("docs/metrics.md has no row of the metric with its words")
	}
	documented := strings.Split(string(row[1]), ", ")
	slices.Sort(documented)
	for of, words := range map[string][]string{
		"noCertificate in handshakes.go":     declaredTexts(t, "handshakes.go", "noCertificate"),
		"handshakes in telemetry/metrics.go": declaredTexts(t, "telemetry/metrics.go", "handshakes"),
	} {
		if slices.Sort(words); !slices.Equal(words, documented) {
			t.Errorf("the words beside %s are\n%q\nand docs/metrics.md has\n%q", of, words, documented)
		}
	}
}

// declaredTexts are the texts of the declaration that a name is of: those of all
// the constants of a block, or those of a variable alone.
func declaredTexts(t *testing.T, file, name string) (texts []string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	collect := func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
			text, _ := strconv.Unquote(l.Value)
			texts = append(texts, text)
		}
		return true
	}
	for _, d := range parsed.Decls {
		block, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range block.Specs {
			switch s, ok := spec.(*ast.ValueSpec); {
			case !ok || s.Names[0].Name != name:
			case block.Tok == token.CONST:
				ast.Inspect(block, collect)
			default:
				ast.Inspect(s, collect)
			}
		}
	}
	return texts
}
