package service_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// Two callers share a fetchgate, its connections and an upstream, and nothing of
// the one reaches the other. And no way to write an address leads to it.

// insideHost is a name of the upstreams that only some callers may reach.
const insideHost = "inside.test"

// tokenOf is the token of the caller "a" or "b".
func tokenOf(caller string) string { return "proof-of-caller-" + caller }

// callersAnd is a configuration with the callers a and b and some rules.
func callersAnd(rules ...string) string {
	return fmt.Sprintf("callers:\n  - {name: a, token_sha256: [%s]}\n  - {name: b, token_sha256: [%s]}\nrules:\n  - %s\n",
		digestOf(tokenOf("a")), digestOf(tokenOf("b")), strings.Join(rules, "\n  - "))
}

// as is the context of an RPC by a caller.
func as(t *testing.T, caller string) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(within(t), "authorization", "Bearer "+tokenOf(caller))
}

// insideDNS resolves insideHost to loopback.
func insideDNS(t *testing.T) *fetchtest.DNS {
	t.Helper()
	dns := fetchtest.NewDNS(t)
	dns.Set(insideHost, "127.0.0.1")
	return dns
}

// TestCallersAreDecidedApart (L07, L15): what one caller may fetch from loopback
// another may not, though a connection for it lies there, and though both ask at
// once.
func TestCallersAreDecidedApart(t *testing.T) {
	for name, c := range map[string]struct {
		isolate string // of the rule of a
		other   string // the rule of b, which may be for another method only
		reason  string
	}{
		"no rule for b":                     {"shared", "callers: [b], methods: [POST], dangerous_allow_loopback: true", "DESTINATION_DENIED"},
		"a rule without loopback":           {"shared", "callers: [b]", "ADDRESS_DENIED"},
		"a rule for all without loopback":   {"shared", "methods: [GET]", "ADDRESS_DENIED"},
		"a rule without it, both isolated":  {"caller", "callers: [b], isolate: caller", "ADDRESS_DENIED"},
		"a rule without it, one isolated":   {"caller", "callers: [b]", "ADDRESS_DENIED"},
		"a rule that opens another address": {"shared", "callers: [b], allow_addresses: [10.0.0.0/8]", "ADDRESS_DENIED"},
	} {
		t.Run(name, func(t *testing.T) {
			u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
			origin := strings.TrimSuffix(u.URLOf(insideHost, ""), "/")
			g := fetchtest.Start(t, fetchtest.Options{DNS: insideDNS(t), Extra: callersAnd(
				fmt.Sprintf("{name: one, callers: [a], origins: [%q], isolate: %s, dangerous_allow_loopback: true}", origin, c.isolate),
				fmt.Sprintf("{name: two, origins: [%q], %s}", origin, c.other))})
			asked := decidedApart{t, g, u.URLOf(insideHost, "/"), c.reason}
			for i := range 4 * len(rpcs) {
				asked.fetch(i)
			}
			if opened, _ := u.Connections(); opened != 1 {
				t.Errorf("%d connections, want the one of a", opened)
			}
			share(100, asked.fetch)
			u.Close()
			if n := len(u.Requests()); n != 2*len(rpcs)+50 {
				t.Errorf("%d requests came, want those of a alone", n)
			}
			for _, r := range u.Requests() {
				if r.Target != "/a" || r.Err != nil {
					t.Errorf("a request for %q came, with %v", r.Target, r.Err)
				}
			}
		})
	}
}

// decidedApart are fetches of a, which are answered, and of b, which are denied.
type decidedApart struct {
	t           *testing.T
	g           *fetchtest.Fetchgate
	url, reason string
}

// fetch is one of a if i is even, and else one of b.
func (d decidedApart) fetch(i int) {
	caller := []string{"a", "b"}[i%2]
	rpc := rpcs[i/2%len(rpcs)]
	a, err := rpc.call(as(d.t, caller), d.g, get(d.url+caller))
	switch {
	case caller == "a" && (err != nil || a.failure != nil || string(a.body) != "ok"):
		d.t.Errorf("%s of a: %s", rpc.name, gotten(a, err))
	case caller == "b" && (status.Code(err) != codes.PermissionDenied || errorReason(err) != d.reason):
		d.t.Errorf("%s of b: %s, want %s", rpc.name, gotten(a, err), d.reason)
	}
}

// identifying is an upstream that binds an identity to a connection: who shows
// one first is who every further request on it is of. It answers with that one.
func identifying() http.Handler {
	var mu sync.Mutex
	known := map[string]string{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if known[r.RemoteAddr] == "" {
			known[r.RemoteAddr] = r.Header.Get("Authorization")
		}
		_, _ = io.WriteString(w, known[r.RemoteAddr])
	})
}

// TestIdentityOfAConnection (L07): by a rule with isolate: caller an upstream
// that binds who asks to the connection answers each caller as itself. The shared
// connections of other rules show that the upstream would do otherwise.
func TestIdentityOfAConnection(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	for name, start := range map[string]func() *fetchtest.Upstream{
		"HTTP/1.1":          func() *fetchtest.Upstream { return fetchtest.NewServer(t, identifying(), nil) },
		"HTTP/1.1 over TLS": func() *fetchtest.Upstream { return fetchtest.NewServer(t, identifying(), authority) },
		"HTTP/2":            func() *fetchtest.Upstream { return fetchtest.NewH2(t, identifying(), authority).Upstream },
	} {
		t.Run(name, func(t *testing.T) {
			u := start()
			g := fetchtest.Start(t, fetchtest.Options{DNS: insideDNS(t), Trust: authority, Extra: callersAnd(
				fmt.Sprintf("{name: apart, paths: [/apart], origins: [%q], isolate: caller, dangerous_allow_loopback: true}", u.URLOf(insideHost, "")),
				fmt.Sprintf("{name: shared, paths: [/shared], origins: [%q], dangerous_allow_loopback: true}", u.URLOf(insideHost, "")))})
			identity := func(caller, path string, scheme ...string) string {
				m := get(u.URLOf(insideHost, path))
				m.Request.Headers = headers("Authorization", strings.Join(scheme, "")+caller)
				a, err := whole(as(t, caller), g, m)
				if err != nil || a.failure != nil {
					return gotten(a, err)
				}
				return string(a.body)
			}
			// A login of the connection is nobody else's, though the rule shares.
			for _, caller := range []string{"a", "b", "a"} {
				if got := identity(caller, "/shared", "NTLM "); got != "NTLM "+caller {
					t.Errorf("%s, who logs in, was answered as %q", caller, got)
				}
			}
			if first, second := identity("a", "/shared"), identity("b", "/shared"); first != "a" || second != "a" {
				t.Errorf("over the shared connection a is %q and b is %q, want a to be both", first, second)
			}
			fetch := func(i int) {
				caller := []string{"a", "b"}[i%2]
				if got := identity(caller, "/apart"); got != caller {
					t.Errorf("%s was answered as %q", caller, got)
				}
			}
			for i := range 20 {
				fetch(i)
			}
			if opened, _ := u.Connections(); opened != 5 {
				t.Errorf("%d connections, want one that is shared, and of each caller one with a login and one apart", opened)
			}
			share(100, fetch)
		})
	}
}

// certified is an upstream that asks for a client certificate and answers with
// whose it got; "/moved" it redirects to what to says.
func certified(t *testing.T, authority *fetchtest.Authority, to func() string) *fetchtest.Recorder {
	t.Helper()
	return fetchtest.NewRecorder(t, fetchtest.RecorderOptions{
		Listen: fetchtest.Listen{TLS: &tls.Config{
			Certificates: []tls.Certificate{authority.Issue(fetchtest.IssueOptions{})}, NextProtos: []string{"http/1.1"},
			ClientAuth: tls.RequestClientCert,
		}},
		Respond: func(r *fetchtest.Recorded) fetchtest.Step {
			switch {
			case r.Target == "/moved":
				return fetchtest.Answer(302, "", "Location: "+to())
			case len(r.TLS.PeerCertificates) == 0:
				return fetchtest.Answer(200, "nobody")
			}
			return fetchtest.Answer(200, r.TLS.PeerCertificates[0].Subject.CommonName)
		},
	})
}

// TestClientKeysStayWithinTheirBinding (E25): a client certificate is shown to no
// other upstream than it is bound to, or than the one of the URL, if the request
// holds it; neither in a redirect nor where a request names it.
func TestClientKeysStayWithinTheirBinding(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	away := certified(t, authority, nil)
	bound := certified(t, authority, func() string { return away.URL("/") })
	cert, key := fetchtest.WriteCertificate(t, authority.Issue(fetchtest.IssueOptions{CommonName: "key"}))
	v := newVault(t)
	v.hold("held", fmt.Sprintf("client_certificate: {cert_file: %q, key_file: %q}", cert, key), boundTo("", bound))
	w := vaulted(t, v, authority, "", bound, away)
	held := func(url string) *request { return naming(url, "held") }
	inline := func(url string) *request {
		m := get(url)
		m.Options.Credentials = []*fetchgatev1.Credential{{Kind: &fetchgatev1.Credential_ClientCertificate{
			ClientCertificate: &fetchgatev1.ClientCertificateCredential{CertificatePem: readFile(t, cert), KeyPem: readFile(t, key)},
		}}}
		return m
	}
	for name, with := range map[string]func(url string) *request{"held": held, "inline": inline} {
		for path, want := range map[string]string{"/": "key", "/moved": "nobody"} {
			for _, rpc := range rpcs {
				a, err := rpc.call(within(t), w, with(bound.URL(path)))
				if err != nil || string(a.body) != want {
					t.Errorf("%s, %s of %s: %s, want %s", name, rpc.name, path, gotten(a, err), want)
				}
			}
		}
	}
	came := len(away.Requests())
	if a, err := whole(within(t), w, held(away.URL("/"))); err == nil {
		t.Errorf("a request that names the certificate for another upstream: %s", gotten(a, err))
	}
	if n := len(away.Requests()); came != 2*len(rpcs) || n != came {
		t.Errorf("%d requests came by redirects and %d more, want %d and none", came, n-came, 2*len(rpcs))
	}
	w.check(t, nil)
}

// disguises are ways to write an IPv4 address that some parser, resolver or
// network takes for it, and URLs in which some parser sees it as the host.
// good.example is public.
func disguises(addr netip.Addr) []string {
	o := addr.As4()
	a, b, c, d := uint64(o[0]), uint64(o[1]), uint64(o[2]), uint64(o[3])
	n := a<<24 | b<<16 | c<<8 | d
	text := addr.String()
	hex := fmt.Sprintf("%02x%02x:%02x%02x", a, b, c, d)
	var hosts []string
	for _, format := range []string{"%d", "0x%x", "0X%08X", "0%o", "%d.", "0x%x."} {
		hosts = append(hosts, fmt.Sprintf(format, n), fmt.Sprintf(format, n+1<<32))
	}
	for _, format := range []string{"0x%x.0x%x.0x%x.0x%x", "0%o.0%o.0%o.0%o", "%04o.%04o.%04o.%04o", "0%o.%d.%d.%d", "0x%02x.%d.0%o.%d", "%d.%d.%d.0x%x", "%d.%d.%d.%d."} {
		hosts = append(hosts, fmt.Sprintf(format, a, b, c, d))
	}
	hosts = append(hosts, text, fmt.Sprintf("%d.%d", a, n&0xffffff), fmt.Sprintf("%d.%d.%d", a, b, n&0xffff), fmt.Sprintf("%d.%d.%d.%d", a+256, b+256, c+256, d+256),
		strings.ReplaceAll(text, ".", "%2e"), "%3"+text[:1]+text[1:], strings.ReplaceAll(text, ".", "。"), strings.ReplaceAll(text, ".", "．"), otherDigits(text, '０'), otherDigits(text, '𝟎'),
		strings.Replace(text, ".", ".\u00ad", 1), strings.Replace(text, ".", "\u200b.", 1), text+"%00", text+"%0d%0a", text+"\\.good.example", "["+text+"]",
		"[::ffff:"+text+"]", "[::ffff:"+hex+"]", "[0:0:0:0:0:ffff:"+hex+"]", "[::"+text+"]", "[::"+hex+"]", "[::ffff:0:"+text+"]", "[64:ff9b::"+text+"]", "[64:ff9b::"+hex+"]",
		"[64:ff9b:1::"+hex+"]", "[2002:"+hex+"::1]", "[2001:0:4136:e378:8000:63bf:"+hex+"]", "[2606:4700::5efe:"+hex+"]", "[::ffff:"+text+"%25lo]",
		text+".nip.io", "www."+text+".nip.io")
	urls := []string{
		"http:" + text, "http:/" + text, "http:///" + text + "/", "//" + text + "/", `http:\\` + text, "http://good.example@" + text + "/", "http://good.example:80@" + text + "/",
		"http://good.example%2f@" + text + "/", "http://" + text + "@good.example/", `http://good.example\@` + text + "/", `http://` + text + `\@good.example/`,
		"http://good.example &@" + text + "# @good.example/", "http://" + text + ":80:80/", "http://" + text + " :80/", "http://good.example#@" + text + "/", "http://good.example?@" + text + "/",
		"http://good.example/http://" + text + "/", "http://good.example\r\nHost: " + text + "/", "http://" + text + "\t/", " http://" + text + "/",
		"gopher://" + text + ":80/_x", "dict://" + text + ":80/x", "file://" + text + "/", "ftp://" + text + "/", "ldap://" + text + "/", "jar:http://" + text + "!/",
	}
	for _, host := range hosts {
		urls = append(urls, "http://"+host+"/")
	}
	return urls
}

// otherDigits writes the digits of another script, whose zero is given.
func otherDigits(text string, zero rune) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return zero + r - '0'
		}
		return r
	}, text)
}

// TestDisguisedAddresses (B22, B23): in whatever way a denied address is written,
// there is no connection to it, from the URL of a fetch and, for one in four, from
// a Location. A name that a parser could take for a number is not even asked for.
func TestDisguisedAddresses(t *testing.T) {
	g := startGuarded(t, "")
	g.dns.Set("good.example", publicAddress)
	tried, reached := 0, 0
	for i, c := range readAddressCases(t) {
		addr := netip.MustParseAddr(c.IP)
		if !addr.Is4() || c.Must != "deny" || c.Contested || i%2 == 1 {
			continue
		}
		g.dns.Set(c.IP+".nip.io", c.IP)
		g.dns.Set("www."+c.IP+".nip.io", c.IP)
		for j, url := range disguises(addr) {
			tried++
			reached += wantPublicOnly(t, url, g.fetch(t, url))
			if j%4 == i/2%4 {
				reached += wantPublicOnly(t, "a redirect to "+url, g.redirected(t, url))
			}
		}
	}
	t.Logf("%d URLs tried, %d connections to the public address", tried, reached)
	if tried < 2000 || reached == 0 {
		t.Error("too few to show anything")
	}
}

// wantPublicOnly wants no connection but to the public address, of which it tells
// the number, and no query but for the names that there are.
func wantPublicOnly(t *testing.T, what string, got trace) int {
	t.Helper()
	for _, to := range got.dialed {
		if to.String() != publicAddress+":80" {
			t.Errorf("%q led to a connection to %s", what, to)
		}
	}
	for _, q := range got.queries {
		if q.Host != "good.example." && !strings.HasSuffix(q.Host, ".nip.io.") {
			t.Errorf("%q led to a query for %q", what, q.Host)
		}
	}
	return len(got.dialed)
}

// TestAdvertisedServices (B29): what an upstream says of other ways to reach it,
// or of ways to be reached from now on, changes nothing for the next fetch.
func TestAdvertisedServices(t *testing.T) {
	other := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	port := other.Addr().Port()
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: fetchtest.Sequence(fetchtest.Answer(200, "ok", "Connection: close",
		fmt.Sprintf(`Alt-Svc: http/1.1="127.0.0.1:%d"; ma=86400; persist=1, h2=":%d", h2c=":%d", h3=":%d"`, port, port, port, port),
		"Strict-Transport-Security: max-age=31536000; includeSubDomains", "Refresh: 0; url="+other.URL("/")))})
	g := fetchtest.Start(t, fetchtest.Options{Allow: []string{fetchtest.OriginOf(u.Upstream), fetchtest.OriginOf(other.Upstream)}})
	for i := range 3 {
		a, err := whole(within(t), g, get(u.URL("/")))
		if err != nil || string(a.body) != "ok" || len(u.Requests()) != i+1 {
			t.Fatalf("fetch %d: %s, %d requests", i, gotten(a, err), len(u.Requests()))
		}
	}
	if opened, _ := other.Connections(); opened != 0 {
		t.Errorf("%d connections to what was advertised", opened)
	}
}
