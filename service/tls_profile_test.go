package service_test

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// pinOf is the digest by which a profile pins the key of a certificate.
func pinOf(c *x509.Certificate) string {
	return fmt.Sprintf("%x", sha256.Sum256(c.RawSubjectPublicKeyInfo))
}

// pinOfAuthority is that of an authority's own key.
func pinOfAuthority(t *testing.T, a *fetchtest.Authority) string {
	t.Helper()
	block, _ := pem.Decode(a.PEM())
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return pinOf(c)
}

// overTLS starts an upstream with a certificate of an authority, and returns it
// with that.
func overTLS(t *testing.T, a *fetchtest.Authority, respond func(*fetchtest.Recorded) fetchtest.Step) (*fetchtest.Recorder, *x509.Certificate) {
	t.Helper()
	c := a.Issue(fetchtest.IssueOptions{})
	return fetchtest.NewRecorder(t, fetchtest.RecorderOptions{
		Listen:  fetchtest.Listen{TLS: &tls.Config{Certificates: []tls.Certificate{c}, NextProtos: []string{"http/1.1"}}},
		Respond: respond,
	}), c.Leaf
}

// profiled is a rule for an upstream with a profile, which may be none.
func profiled(name string, u *fetchtest.Recorder, profile, more string) string {
	rule := fmt.Sprintf("  - {name: %s, origins: [%q], dangerous_allow_loopback: true", name, fetchtest.OriginOf(u.Upstream))
	if profile != "" {
		rule += ", tls_profile: " + profile
	}
	return rule + more + "}\n"
}

// wantReason fetches a URL with a full report and holds the failure to a reason;
// empty means that there is an answer.
func wantReason(t *testing.T, c fetchgatev1.FetchServiceClient, url, want string, alter ...func(*request)) *answer {
	t.Helper()
	m := get(url)
	m.Options = &fetchgatev1.FetchOptions{Report: full()}
	for _, a := range alter {
		a(m)
	}
	var last *answer
	for _, rpc := range rpcs {
		a, err := rpc.call(within(t), c, m)
		if err != nil {
			t.Fatalf("%s of %s: %v", rpc.name, url, err)
		}
		if got := reasonOf(a.failure); got != want {
			t.Errorf("%s of %s: the reason is %q, want %q: %v", rpc.name, url, got, want, a.failure)
		}
		last = a
	}
	return last
}

// lastConnection is that of the last hop.
func lastConnection(a *answer) *fetchgatev1.ConnectionInfo {
	attempts := a.report.GetAttempts()
	hops := attempts[len(attempts)-1].GetHops()
	return hops[len(hops)-1].GetConnection()
}

// TestTLSProfiles: a profile's authorities are the only ones, its least version is
// held, and rules without it go by the server's settings.
func TestTLSProfiles(t *testing.T) {
	public, private := fetchtest.NewAuthority(t), fetchtest.NewAuthority(t)
	inside, _ := overTLS(t, private, nil)
	unnamed, _ := overTLS(t, private, nil)
	outside, _ := overTLS(t, public, nil)
	mixed, _ := overTLS(t, public, nil)
	old := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Listen: fetchtest.Listen{TLS: &tls.Config{
		Certificates: []tls.Certificate{public.Issue(fetchtest.IssueOptions{})}, MaxVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	}}})
	g := fetchtest.Start(t, fetchtest.Options{Trust: public, Extra: fmt.Sprintf("tls_profiles:\n  - {name: private, ca_files: [%q]}\n  - {name: new, min_version: \"1.3\"}\n  - {name: low, min_version: \"1.2\"}\nrules:\n", private.WriteFile(t)) +
		profiled("inside", inside, "private", "") + profiled("unnamed", unnamed, "", "") + profiled("outside", outside, "", "") +
		profiled("mixed", mixed, "private", "") +
		profiled("new", old, "new", `, paths: ["/new"]`) + profiled("low", old, "low", `, paths: ["/low"]`)})
	wantReason(t, g, inside.URL("/"), "")
	wantReason(t, g, unnamed.URL("/"), "TLS_VERIFY")
	wantReason(t, g, outside.URL("/"), "")
	wantReason(t, g, mixed.URL("/"), "TLS_VERIFY")
	wantReason(t, g, old.URL("/low"), "")
	wantReason(t, g, old.URL("/new"), "TLS_HANDSHAKE")
	wantReason(t, g, old.URL("/low"), "TLS_HANDSHAKE", func(m *request) {
		m.Options.Tls = &fetchgatev1.TlsOptions{MinimumVersion: fetchgatev1.TlsVersion_TLS_VERSION_1_3.Enum()}
	})
	e, err := g.Policy.Explain(within(t), &fetchgatev1.ExplainRequest{Request: get(inside.URL("/")).Request})
	if err != nil || !strings.Contains(e.GetWhy(), `with the TLS profile "private"`) {
		t.Errorf("Explain says %v, %v", e, err)
	}
	if lines := fmt.Sprint(g.Service.Rules()); !strings.Contains(lines, "TLS profile private") {
		t.Errorf("the rules are described as %s", lines)
	}
}

// TestTLSPins: one of the keys of the chain must be pinned, on a connection that
// is open already and for a session that is resumed as well.
func TestTLSPins(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	closing, closingLeaf := overTLS(t, authority, func(*fetchtest.Recorded) fetchtest.Step { return fetchtest.Answer(200, "ok", "Connection: close") })
	kept, leaf := overTLS(t, authority, nil)
	other := strings.Repeat("ab", sha256.Size)
	g := fetchtest.Start(t, fetchtest.Options{Trust: authority, Extra: fmt.Sprintf(
		"tls_profiles:\n  - {name: leaf, spki_sha256: [%s, %s]}\n  - {name: root, spki_sha256: [%s]}\n  - {name: other, spki_sha256: [%s]}\n  - {name: closing, spki_sha256: [%s]}\nrules:\n",
		other, pinOf(leaf), pinOfAuthority(t, authority), other, pinOf(closingLeaf)) +
		profiled("leaf", kept, "leaf", `, paths: ["/leaf"]`) + profiled("root", kept, "root", `, paths: ["/root"]`) +
		profiled("other", kept, "other", `, paths: ["/other"]`) + profiled("none", kept, "", `, paths: ["/none"]`) +
		profiled("closing", closing, "closing", "")})
	for _, path := range []string{"/none", "/leaf", "/root"} { // three connections that stay open
		wantReason(t, g, kept.URL(path), "")
	}
	if opened, _ := kept.Connections(); opened != 3 {
		t.Errorf("%d connections for three profiles", opened)
	}
	f := wantReason(t, g, kept.URL("/other"), "TLS_PIN_MISMATCH").failure
	if !strings.Contains(f.GetMessage(), pinOf(leaf)) || f.GetTlsFault().GetIssuer() == "" {
		t.Errorf("the failure does not say what was met: %v", f)
	}
	if n := len(kept.Requests()); n != 2*3 {
		t.Errorf("the upstream got %d requests", n)
	}
	wantReason(t, g, closing.URL("/"), "")
	if c := lastConnection(wantReason(t, g, closing.URL("/"), "")); !c.GetTls().GetResumed() || c.GetReused() {
		t.Errorf("no session was resumed: %v", c)
	}
}

// TestTLSProfilesChange: after a reload that changes a profile, or the authorities
// in a file of one, no connection and no session from before serves.
func TestTLSProfilesChange(t *testing.T) {
	authority, stranger := fetchtest.NewAuthority(t), fetchtest.NewAuthority(t)
	dir := t.TempDir()
	bundle := filepath.Join(dir, "bundle.pem")
	trust := func(a *fetchtest.Authority) {
		t.Helper()
		if err := os.WriteFile(bundle+".next", a.PEM(), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(bundle+".next", bundle); err != nil {
			t.Fatal(err)
		}
	}
	trust(authority)
	u, leaf := overTLS(t, authority, nil)
	closing, _ := overTLS(t, authority, func(*fetchtest.Recorded) fetchtest.Step { return fetchtest.Answer(200, "ok", "Connection: close") })
	text := func(pins string) string {
		return "tls_profiles:\n  - {name: p, ca_files: [bundle.pem]" + pins + "}\nrules:\n" + profiled("a", u, "p", "") + profiled("b", closing, "p", "")
	}
	s := reloadingAt(t, filepath.Join(dir, "fetchgate.yaml"), text(""), service.Options{})
	wantReason(t, s, u.URL("/"), "")
	wantReason(t, s, closing.URL("/"), "")

	s.change(t, text(", spki_sha256: ["+pinOf(leaf)+"]")) // a new key, the same upstream
	wantReason(t, s, u.URL("/"), "")
	if opened, open := u.Connections(); opened != 2 || open > 2 {
		t.Errorf("%d connections after the change of a pin", opened)
	}
	if err := u.WaitClosed(within(t), 1); err != nil {
		t.Errorf("the connection from before the change stays: %v", err)
	}
	wantReason(t, s, closing.URL("/"), "TLS_PIN_MISMATCH")

	s.change(t, text(""))
	wantReason(t, s, u.URL("/"), "")
	trust(stranger)
	s.look()
	wantReason(t, s, u.URL("/"), "TLS_VERIFY")
	wantReason(t, s, closing.URL("/"), "TLS_VERIFY")
	trust(authority)
	s.look()
	wantReason(t, s, u.URL("/"), "")
	if n := s.inForce(t).GetGeneration(); n != 5 {
		t.Errorf("the generation is %d", n)
	}
	before, _ := u.Connections()
	s.change(t, text("")+"log: {}\n") // says nothing of it
	wantReason(t, s, u.URL("/"), "")
	if after, _ := u.Connections(); after != before {
		t.Error("a reload without a change of the profile closed its connection")
	}
}

// TestTLSProfilesOfDeniedHops: where a hop goes ahead though rules deny it, the
// server's settings are in force, and not those of a rule that does not carry it.
func TestTLSProfilesOfDeniedHops(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	u, _ := overTLS(t, authority, nil)
	dns := fetchtest.NewDNS(t)
	dns.Set("upstream.test", publicAddress)
	other := strings.Repeat("ab", sha256.Size)
	g := fetchtest.Start(t, fetchtest.Options{Trust: authority, DNS: dns, Connect: asking(connectTo(u.Addr())), Extra: "mode: report\ntls_profiles: [{name: p, spki_sha256: [" + other + "]}]\n" +
		"rules:\n  - {name: r, origins: [\"https://upstream.test\"], methods: [GET], tls_profile: p}\n"})
	wantReason(t, g, "https://upstream.test/", "TLS_PIN_MISMATCH")
	wantReason(t, g, "https://upstream.test/", "", func(m *request) { m.Request.Method = "PUT" })
}

// TestTLSProfilesThatAreRefused: each with what is nearest.
func TestTLSProfilesThatAreRefused(t *testing.T) {
	rule := "rules: [{name: r, origins: [\"https://a.example\"], tls_profile: partner}]\n"
	for text, want := range map[string]string{
		rule: `rules[0].tls_profile: no TLS profile is called "partner"`,
		"tls_profiles: [{name: partners}]\n" + rule:                                       `no TLS profile is called "partner"; did you mean "partners"?`,
		"tls_profiles: [{name: partner}, {name: partner}]\n" + rule:                       `tls_profiles[1].name: another TLS profile is called "partner"`,
		"tls_profiles: [{name: partner, ca_files: [none.pem]}]\n" + rule:                  `tls_profiles[0].ca_files[0]: `,
		"tls_profiles: [{name: partner, ca_files: [/dev/zero]}]\n" + rule:                 `is not a regular file`,
		"tls_profiles: [{name: partner, spki_sha256: [AB]}]\n" + rule:                     `tls_profiles[0].spki_sha256[0]`,
		"tls_profiles: [{name: partner, min_version: \"1.1\"}]\n" + rule:                  `tls_profiles[0].min_version`,
		"tls_profiles: [{name: partner}]\n" + strings.Replace(rule, "https:", "http:", 1): `rules[0].tls_profile: it is about https`,
	} {
		c, err := config.Parse("test.yaml", []byte(text))
		if err == nil {
			_, err = service.CompilePolicy(c, nil)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n  is refused with %v, want %s", text, err, want)
		}
	}
}
