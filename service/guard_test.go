package service_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// No fetch looks up a name or connects to an address that it must not. All of it
// is asked by gRPC, and told by what the resolver and the network then saw.

// publicAddress is one that any fetch may connect to.
const publicAddress = "93.184.215.14"

// The redirector is an upstream that any fetch may reach. It redirects to what
// the query of its URL says.
const (
	redirectorHost    = "redirector.example"
	redirectorAddress = "93.184.215.15"
)

// guarded is a fetchgate whose resolver and network are made up and remember
// what they were asked.
type guarded struct {
	*fetchtest.Fetchgate
	dns     *fetchtest.DNS
	network *fetchtest.RecordingConnect
}

// startGuarded starts one with a configuration, which may be empty. Every
// connection is refused but those to the redirector, which are made.
func startGuarded(t *testing.T, yaml string) *guarded {
	t.Helper()
	g := &guarded{dns: fetchtest.NewDNS(t), network: fetchtest.NewRecordingConnect(t, nil)}
	redirector := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Respond: func(asked *fetchtest.Recorded) fetchtest.Step {
		_, query, _ := strings.Cut(asked.Target, "?")
		location, err := url.QueryUnescape(query)
		if err != nil {
			return fetchtest.Answer(400, err.Error())
		}
		return fetchtest.Answer(302, "", "Location: "+location)
	}})
	g.dns.Set(redirectorHost, redirectorAddress)
	connect := func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		if to.Addr().String() != redirectorAddress {
			return g.network.Connect(ctx, to)
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", redirector.Addr().String())
	}
	g.Fetchgate = fetchtest.Start(t, fetchtest.Options{Config: yaml, DNS: g.dns, Connect: asking(connect)})
	return g
}

// asking has connect ask before it connects, as the network's sockets do.
func asking(connect func(context.Context, netip.AddrPort) (net.Conn, error)) dial.Connect {
	return func(ctx context.Context, to netip.AddrPort, control dial.Control) (net.Conn, error) {
		network := "tcp6"
		if to.Addr().Is4() {
			network = "tcp4"
		}
		if err := control(network, to.String(), nil); err != nil {
			return nil, err
		}
		return connect(ctx, to)
	}
}

// trace is what became of one fetch.
type trace struct {
	hops    int // as the answer tells
	code    codes.Code
	reason  string // of the ErrorInfo, or of the failure
	err     error
	queries []fetchtest.DNSQuery
	dialed  []netip.AddrPort
}

// fetch fetches a URL once.
func (g *guarded) fetch(t *testing.T, url string) trace {
	t.Helper()
	return g.fetchBy(t, url, oneAttempt())
}

// redirected has the redirector lead to a URL. What is asked and dialed to reach
// the redirector itself is left out.
func (g *guarded) redirected(t *testing.T, location string) trace {
	t.Helper()
	got := g.fetch(t, "http://"+redirectorHost+"/?"+url.QueryEscape(location))
	got.queries = slices.DeleteFunc(got.queries, func(q fetchtest.DNSQuery) bool { return q.Host == redirectorHost+"." })
	return got
}

func (g *guarded) fetchBy(t *testing.T, url string, retry *fetchgatev1.RetryPolicy) trace {
	t.Helper()
	queries, dialed := len(g.dns.Queries()), len(g.network.Addresses())
	m, err := g.Fetch(within(t), &request{
		Request: &fetchgatev1.HttpRequest{Url: url},
		Options: &fetchgatev1.FetchOptions{Retry: retry},
	})
	return trace{
		hops: len(m.GetFailure().GetResponse().GetHistory()) + 1,
		code: status.Code(err), reason: cmp.Or(errorReason(err), reasonOf(m.GetFailure())), err: err,
		queries: g.dns.Queries()[queries:], dialed: g.network.Addresses()[dialed:],
	}
}

// errorReason is the reason that the ErrorInfo of an RPC's error has.
func errorReason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if e, ok := d.(*errdetails.ErrorInfo); ok {
			return e.GetReason()
		}
	}
	return ""
}

func reasonOf(f *fetchgatev1.Failure) string {
	if f == nil {
		return ""
	}
	return strings.TrimPrefix(f.GetReason().String(), "FAILURE_REASON_")
}

// readCases reads a list of a package's testdata.
func readCases[T any](t *testing.T, file, list string) []T {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var lists map[string]json.RawMessage
	if err := json.Unmarshal(text, &lists); err != nil {
		t.Fatal(err)
	}
	var cases []T
	if err := json.Unmarshal(lists[list], &cases); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return cases
}

// addressCase is an address and what the tests of other guards want of it.
type addressCase struct {
	ID, IP, Must string
	Contested    bool
}

func readAddressCases(t *testing.T) []addressCase {
	t.Helper()
	cases := readCases[addressCase](t, "iana/testdata/addresses.json", "address")
	if len(cases) != 323 {
		t.Fatalf("%d addresses, want 323", len(cases))
	}
	return cases
}

// TestAddresses tries the addresses that other guards are tested with as the
// host, behind a name, and in one answer with a public one, each as the first hop
// and as the second.
func TestAddresses(t *testing.T) {
	g := startGuarded(t, "")
	disagree := map[string][]string{}
	denied, contested := 0, 0
	for _, c := range readAddressCases(t) {
		addr := netip.MustParseAddr(c.IP)
		name := c.ID + ".example"
		literal := "http://" + netip.AddrPortFrom(addr, 80).String() + "/"
		isAllowed := g.fetch(t, literal).code == codes.OK
		for _, hop := range []struct {
			name  string
			fetch func(*testing.T, string) trace
			first bool
		}{{"the first hop", g.fetch, true}, {"the second hop", g.redirected, false}} {
			check := func(what, url string, dialed ...string) {
				t.Helper()
				checkHop(t, c.ID+" "+what+", "+hop.name, hop.fetch(t, url), hop.first, isAllowed, dialed...)
			}
			check("as the host", literal, c.IP)
			g.dns.Set(name, c.IP)
			check("behind a name", "http://"+name+"/", c.IP)
			g.dns.Set(name, publicAddress, c.IP)
			check("after a public address", "http://"+name+"/", c.IP, publicAddress)
			g.dns.Set(name, c.IP, publicAddress)
			check("before a public address", "http://"+name+"/", c.IP, publicAddress)
		}
		switch {
		case c.Contested:
			contested++
		case isAllowed != (c.Must == "allow"):
			disagree[c.ID] = []string{c.Must, map[bool]string{true: "allow", false: "deny"}[isAllowed]}
		case !isAllowed:
			denied++
		}
	}
	t.Logf("%d addresses denied in eight ways, %d contested", denied, contested)
	wantExceptions(t, "Addresses", disagree)
}

// checkDialed holds a fetch that was allowed to these addresses, each dialed as
// it is reached, and one that was denied to none.
func checkDialed(t *testing.T, what string, got trace, isAllowed bool, addresses ...string) {
	t.Helper()
	checkHop(t, what, got, true, isAllowed, addresses...)
}

// checkHop is checkDialed for the last hop, which is the first one or the second.
// A second one is denied in the answer, since something was done already.
func checkHop(t *testing.T, what string, got trace, isFirst, isAllowed bool, addresses ...string) {
	t.Helper()
	wantCode, wantReason, wantHops := codes.OK, "ADDRESS_DENIED", 2
	if isFirst {
		wantCode, wantHops = codes.PermissionDenied, 1
	}
	var want []netip.AddrPort
	if isAllowed {
		wantCode, wantReason = codes.OK, "CONNECT_REFUSED"
		for _, a := range addresses {
			want = append(want, netip.AddrPortFrom(netip.MustParseAddr(a).Unmap(), 80))
		}
		slices.SortFunc(want, netip.AddrPort.Compare)
		want = slices.Compact(want)
	}
	dialed := slices.SortedFunc(slices.Values(got.dialed), netip.AddrPort.Compare)
	if got.hops != wantHops || got.code != wantCode || got.reason != wantReason || !slices.Equal(dialed, want) {
		t.Errorf("%s: hop %d, %v %s, dialed %v; want hop %d, %v %s, %v", what, got.hops, got.code, got.reason, dialed, wantHops, wantCode, wantReason, want)
	}
}

// urlCase is a URL and what the URL Standard makes of it.
type urlCase struct {
	ID, URL, Must string
	WHATWG        struct{ Protocol, Hostname, Port string }
}

func (c urlCase) mayBeFetched() bool { return c.Must == "refuse_or_same_host" }

func readURLCases(t *testing.T) []urlCase {
	t.Helper()
	cases := readCases[urlCase](t, "fetch/testdata/urls.json", "url")
	if len(cases) != 557 {
		t.Fatalf("%d URLs, want 557", len(cases))
	}
	return cases
}

// origin is what the URL Standard reads.
func (c urlCase) origin() string {
	origin := c.WHATWG.Protocol + "//" + c.WHATWG.Hostname
	if c.WHATWG.Port != "" {
		origin += ":" + c.WHATWG.Port
	}
	return origin
}

func (c urlCase) port(t *testing.T) uint16 {
	t.Helper()
	text := cmp.Or(c.WHATWG.Port, map[string]string{"http:": "80", "https:": "443"}[c.WHATWG.Protocol])
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(port)
}

// everyHost is a configuration by which all that the URL Standard reads may be
// fetched, as far as a rule can name it.
func everyHost(t *testing.T, cases []urlCase) string {
	t.Helper()
	var ports, origins []string
	for _, c := range cases {
		if !c.mayBeFetched() {
			continue
		}
		ports = append(ports, fmt.Sprint(c.port(t)))
		if _, err := fetch.ParseURL(c.origin()); err == nil {
			origins = append(origins, fmt.Sprintf("%q", c.origin()))
		}
	}
	slices.Sort(ports)
	return fmt.Sprintf(`
rules:
  - name: wildcards
    origins: ["http://*", "https://*"]
    ports: [%s]
    dangerous_allow_loopback: true
  - name: names
    origins: [%s]
    dangerous_allow_loopback: true
`, strings.Join(slices.Compact(ports), ", "), strings.Join(origins, ", "))
}

// TestURLs fetches what browsers' URL parsers are tested with: each is refused,
// or leads to the host and port that a browser would go to.
func TestURLs(t *testing.T) {
	cases := readURLCases(t)
	g := startGuarded(t, everyHost(t, cases))
	reached := 0
	for _, c := range cases {
		host := strings.TrimSuffix(c.WHATWG.Hostname, ".")
		if c.mayBeFetched() {
			g.dns.Set(host, publicAddress)
		}
		got := g.fetch(t, c.URL)
		if got.code == codes.InvalidArgument {
			wantRefused(t, c.ID, got.err, "request.url")
		}
		switch {
		case got.code == codes.InvalidArgument, got.code == codes.PermissionDenied && c.mayBeFetched():
			if len(got.queries)+len(got.dialed) > 0 {
				t.Errorf("%s: %q was refused after queries for %v and connections to %v", c.ID, c.URL, got.queries, got.dialed)
			}
		case c.mayBeFetched():
			reached++
			checkSameHost(t, c, host, got)
		default:
			t.Errorf("%s: %q must be refused; it got %v, queries for %v, connections to %v", c.ID, c.URL, got.code, got.queries, got.dialed)
		}
	}
	t.Logf("%d of %d URLs reach the host that the URL Standard reads, the others are refused", reached, len(cases))
	if reached < 60 {
		t.Error("too few URLs got as far as a connection to show anything")
	}
}

// checkSameHost holds a fetch to the host and port that the URL Standard reads,
// and to one look-up of an absolute name.
func checkSameHost(t *testing.T, c urlCase, host string, got trace) {
	t.Helper()
	var queries []fetchtest.DNSQuery
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if err != nil {
		queries = []fetchtest.DNSQuery{{Network: "ip", Host: host + "."}}
		addr = netip.MustParseAddr(publicAddress)
	}
	dialed := []netip.AddrPort{netip.AddrPortFrom(addr.Unmap(), c.port(t))}
	if host == "localhost" { // the machine itself, which nobody has to be asked for
		queries = nil
		dialed = []netip.AddrPort{
			netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), c.port(t)), netip.AddrPortFrom(netip.IPv6Loopback(), c.port(t)),
		}
	}
	if !slices.Equal(got.queries, queries) || !slices.Equal(got.dialed, dialed) {
		t.Errorf("%s: %q: queries for %v and connections to %v, want %v and %v", c.ID, c.URL, got.queries, got.dialed, queries, dialed)
	}
}

// TestRebinding: the address that was judged is the one that is dialed, and each
// connection is judged anew.
func TestRebinding(t *testing.T) {
	g := startGuarded(t, "")
	g.dns.Script("rebind.example", g.dns.Addresses(publicAddress), g.dns.Addresses("127.0.0.1"))
	got := g.fetch(t, "http://rebind.example/")
	if len(got.queries) != 1 {
		t.Errorf("queries: %v, want one", got.queries)
	}
	checkDialed(t, "the first fetch", got, true, publicAddress)
	got = g.fetch(t, "http://rebind.example/")
	if len(got.queries) != 1 {
		t.Errorf("queries: %v, want one", got.queries)
	}
	checkDialed(t, "the second fetch", got, false)
}

// TestRebindingBetweenAttempts: a further attempt asks and judges anew, and is
// over with a denial, of which no attempt follows.
func TestRebindingBetweenAttempts(t *testing.T) {
	g := startGuarded(t, "")
	g.dns.Script("rebind.example", g.dns.Addresses(publicAddress), g.dns.Addresses("127.0.0.1"))
	got := g.fetchBy(t, "http://rebind.example/", nil)
	want := []netip.AddrPort{netip.MustParseAddrPort(publicAddress + ":80")}
	if got.code != codes.OK || got.reason != "ADDRESS_DENIED" || !slices.Equal(got.dialed, want) || len(got.queries) != 2 {
		t.Errorf("%v %s, %d queries, dialed %v; want OK ADDRESS_DENIED, 2, %v", got.code, got.reason, len(got.queries), got.dialed, want)
	}
}

// TestRebindingBetweenHops: a name that the first hop may reach is judged again
// on the second, when its address is another.
func TestRebindingBetweenHops(t *testing.T) {
	g := startGuarded(t, "")
	g.dns.Script(redirectorHost, g.dns.Addresses(redirectorAddress), g.dns.Addresses("127.0.0.1"))
	// The connection to one port does not serve the other.
	got := g.fetch(t, "http://"+redirectorHost+"/?https://"+redirectorHost+"/")
	checkHop(t, "the second hop", got, false, false)
}

// TestRedirectsToOtherPortsAndSchemes: a second hop needs a rule as the first
// does. Nothing is asked and nothing dialed for one that has none.
func TestRedirectsToOtherPortsAndSchemes(t *testing.T) {
	g := startGuarded(t, "")
	g.dns.Set("www.example.com", publicAddress)
	for url, want := range map[string]string{
		"http://www.example.com:22/":       "REDIRECT_DENIED",
		"https://www.example.com:80/":      "REDIRECT_DENIED",
		"http://localhost/":                "REDIRECT_DENIED",
		"ftp://www.example.com/":           "UNSUPPORTED_SCHEME",
		"file:///etc/passwd":               "UNSUPPORTED_SCHEME",
		"gopher://www.example.com/":        "UNSUPPORTED_SCHEME",
		"http://user@www.example.com/":     "INVALID_REDIRECT_URL",
		"http://0x7f.1/":                   "INVALID_REDIRECT_URL",
		"http:www.example.com":             "INVALID_REDIRECT_URL",
		"http:///www.example.com/":         "INVALID_REDIRECT_URL",
		"http://www.example.com\\@a.test/": "INVALID_REDIRECT_URL",
	} {
		got := g.redirected(t, url)
		if got.code != codes.OK || got.reason != want || len(got.queries)+len(got.dialed) > 0 {
			t.Errorf("%s: %v %s, queries for %v, connections to %v; want OK %s and none", url, got.code, got.reason, got.queries, got.dialed, want)
		}
	}
}

// TestNamesAreAskedAbsolute: no search domain makes another name of a name.
func TestNamesAreAskedAbsolute(t *testing.T) {
	g := startGuarded(t, "")
	g.dns.Set("www.example.com", publicAddress)
	for _, host := range []string{"www.example.com", "www.example.com.", "WWW.Example.COM"} {
		got := g.fetch(t, "http://"+host+"/")
		if want := []fetchtest.DNSQuery{{Network: "ip", Host: "www.example.com."}}; !slices.Equal(got.queries, want) {
			t.Errorf("%s: queries for %v, want %v", host, got.queries, want)
		}
		checkDialed(t, host, got, true, publicAddress)
	}
}

// TestOneDeniedAddressDeniesTheRace: with several addresses to race, a denied
// one is not even a loser of the race.
func TestOneDeniedAddressDeniesTheRace(t *testing.T) {
	g := startGuarded(t, "")
	for i := range 4 {
		answer := slices.Insert([]string{publicAddress, "2606:4700:4700::1111", "1.1.1.1"}, i, "10.0.0.1")
		g.dns.Set("raced.example", answer...)
		checkDialed(t, fmt.Sprint(answer), g.fetch(t, "http://raced.example/"), false)
	}
}

// TestDenialTellsNothingOfThePort: whether a port of a denied address is open
// cannot be told from the answer.
func TestDenialTellsNothingOfThePort(t *testing.T) {
	open := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	shut := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	shut.Close()
	dns := fetchtest.NewDNS(t)
	dns.Set("inside.test", "127.0.0.1")
	ports := []uint16{open.Addr().Port(), shut.Addr().Port()}
	g := fetchtest.Start(t, fetchtest.Options{DNS: dns, Config: fmt.Sprintf(
		"rules:\n  - name: outside\n    origins: [\"http://*:%d\", \"http://*:%d\"]\n", ports[0], ports[1])})
	for _, host := range []string{"127.0.0.1", "inside.test"} {
		var answers []string
		for _, port := range ports {
			_, err := g.Fetch(within(t), &request{Request: &fetchgatev1.HttpRequest{Url: fmt.Sprintf("http://%s:%d/", host, port)}})
			if status.Code(err) != codes.PermissionDenied || errorReason(err) != "ADDRESS_DENIED" {
				t.Errorf("%s, port %d: %v", host, port, err)
			}
			text := prototext.MarshalOptions{}.Format(status.Convert(err).Proto())
			// prototext puts in random spaces so that nobody relies on its output.
			answers = append(answers, strings.Join(strings.Fields(text), " "))
		}
		if answers[0] != answers[1] || host == "inside.test" && strings.Contains(answers[0], "127.0.0.1") {
			t.Errorf("%s: the answers tell more than they should:\n%s\n%s", host, answers[0], answers[1])
		}
	}
	if opened, _ := open.Connections(); opened != 0 {
		t.Errorf("%d connections were opened", opened)
	}
}

// connectTo has every connection go to one address, whichever is dialed.
func connectTo(addr netip.AddrPort) func(context.Context, netip.AddrPort) (net.Conn, error) {
	return func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr.String())
	}
}
