package service_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// What is near does not weaken a decision: fetchgate's own listeners, proxies of
// its environment, connections that are open already.

// TestOwnListenersAreNotFetched, whatever the address is called and whatever the
// rule opens.
func TestOwnListenersAreNotFetched(t *testing.T) {
	hosts := []string{"127.0.0.1", "127.0.0.2", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "64:ff9b::7f00:1"}
	opened := []string{}
	for _, addr := range interfaces(t) {
		hosts = append(hosts, addr.String())
		if !addr.IsLoopback() {
			opened = append(opened, fmt.Sprintf("%q", addr))
		}
	}
	allow := "\n    dangerous_allow_loopback: true"
	if len(opened) > 0 {
		allow += "\n    allow_addresses: [" + strings.Join(opened, ", ") + "]"
	}
	g, own := startWhere(t, func(own []uint16) string {
		return fmt.Sprintf("rules:\n  - name: all\n    origins: [\"http://*\", \"http://localhost\"]\n    ports: [80, %d, %d]%s\n", own[0], own[1], allow)
	})
	for _, host := range hosts {
		g.dns.Set("own.test", host)
		g.dns.Set("localhost", host)
		for _, port := range own {
			for _, url := range []string{
				"http://" + netip.AddrPortFrom(netip.MustParseAddr(host), port).String(),
				fmt.Sprintf("http://own.test:%d", port), fmt.Sprintf("http://localhost:%d", port),
			} {
				checkDialed(t, url+" at "+host, g.fetch(t, url), false)
			}
		}
		checkDialed(t, "port 80 of "+host, g.fetch(t, "http://own.test"), true, host)
	}
}

// interfaces returns the addresses of this machine that need no zone.
func interfaces(t *testing.T) []netip.Addr {
	t.Helper()
	nets, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var addrs []netip.Addr
	for _, n := range nets {
		if addr := netip.MustParsePrefix(n.String()).Addr(); !addr.IsLinkLocalUnicast() {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// startWhere starts a fetchgate whose configuration knows its own ports.
func startWhere(t *testing.T, yaml func(own []uint16) string) (*guarded, []uint16) {
	t.Helper()
	g := &guarded{dns: fetchtest.NewDNS(t), network: fetchtest.NewRecordingConnect(t, nil)}
	var s *service.Service
	var own []uint16
	// Somebody else may take a free port before the service does.
	for try := 0; s == nil; try++ {
		own = freePorts(t)
		loaded, err := config.Parse("test.yaml", []byte(yaml(own)))
		if err != nil {
			t.Fatal(err)
		}
		s, err = service.New(service.Options{
			Config: loaded, GRPCAddress: fmt.Sprintf("127.0.0.1:%d", own[0]), HTTPAddress: fmt.Sprintf("127.0.0.1:%d", own[1]),
			Resolver: g.dns, Connect: asking(g.network.Connect),
		})
		if err != nil && try == 5 {
			t.Fatal(err)
		}
	}
	conn, err := grpc.NewClient(s.GRPCAddress(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	g.Fetchgate = &fetchtest.Fetchgate{FetchServiceClient: fetchgatev1.NewFetchServiceClient(conn), Conn: conn, Service: s}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	t.Cleanup(func() {
		conn.Close()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return g, own
}

// freePorts returns two ports that nobody listens on.
func freePorts(t *testing.T) (ports []uint16) {
	t.Helper()
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).AddrPort().Port())
	}
	return ports
}

// freshProcess names the variable that tells a test that it has a process of
// its own.
const freshProcess = "FETCHGATE_TEST_FRESH_PROCESS"

// TestProxiesOfTheEnvironmentAreIgnored runs in a process of its own: net/http
// reads these variables once, and some test before may have made it.
func TestProxiesOfTheEnvironmentAreIgnored(t *testing.T) {
	if os.Getenv(freshProcess) == "" {
		run := exec.CommandContext(within(t), os.Args[0], "-test.run=^TestProxiesOfTheEnvironmentAreIgnored$", "-test.v")
		run.Env = append(os.Environ(), freshProcess+"=1")
		if out, err := run.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	proxy := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL(""))
		t.Setenv(strings.ToLower(name), proxy.URL(""))
	}
	t.Setenv("NO_PROXY", "")
	t.Setenv("no_proxy", "")
	authority := fetchtest.NewAuthority(t)
	dns := fetchtest.NewDNS(t)
	dns.Set("upstream.test", "127.0.0.1")
	for _, l := range []fetchtest.Listen{{}, {Authority: authority}} {
		u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{Listen: l})
		url := u.URLOf("upstream.test", "")
		g := fetchtest.Start(t, fetchtest.Options{Allow: []string{url}, Trust: authority, DNS: dns})
		got, err := whole(within(t), g, &request{Request: &fetchgatev1.HttpRequest{Url: url}})
		if err != nil || string(got.body) != "ok" || len(u.Requests()) != 1 {
			t.Errorf("%s: %+v, %v, %d requests", url, got, err, len(u.Requests()))
		}
	}
	if opened, _ := proxy.Connections(); opened != 0 {
		t.Errorf("%d connections to the proxy of the environment", opened)
	}
}

// TestConnectionsDoNotServeOtherHosts: that an open HTTP/2 connection has a
// certificate for another host too (RFC 9113 section 9.1.1) does not take that
// host there.
func TestConnectionsDoNotServeOtherHosts(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	u := fetchtest.NewH2(t, nil, authority)
	dns := fetchtest.NewDNS(t)
	dns.Set("a.test", "127.0.0.1")
	dns.Set("b.test", "10.0.0.1")
	dns.Set("c.test", "127.0.0.1")
	var allow []string
	for _, host := range []string{"a.test", "b.test", "c.test"} {
		allow = append(allow, u.URLOf(host, ""))
	}
	g := fetchtest.Start(t, fetchtest.Options{Allow: allow, Trust: authority, DNS: dns})
	fetch := func(host string) (*fetchgatev1.FetchResponse, error) {
		return g.Fetch(within(t), &request{Request: &fetchgatev1.HttpRequest{Url: u.URLOf(host, "/")}})
	}
	if m, err := fetch("a.test"); err != nil || m.GetResponse().GetHead().GetProtocol() != "HTTP/2" {
		t.Fatalf("a.test: %v, %v", m, err)
	}
	if m, err := fetch("b.test"); status.Code(err) != codes.PermissionDenied || errorReason(err) != "ADDRESS_DENIED" {
		t.Errorf("b.test, whose address is denied: %v, %v", m, err)
	}
	if m, err := fetch("c.test"); err != nil || m.GetResponse() == nil {
		t.Errorf("c.test: %v, %v", m, err)
	}
	requests := u.Requests()
	if len(requests) != 2 || requests[0].Conn == requests[1].Conn {
		t.Errorf("want a.test and c.test on a connection each, got %+v", requests)
	}
}

// TestConnectionsDoNotOutliveTheirRule: a connection that one rule allowed never
// serves a fetch under another rule that would not have opened it.
func TestConnectionsDoNotOutliveTheirRule(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	dns := fetchtest.NewDNS(t)
	dns.Set("a.test", "127.0.0.1")
	dns.Set("b.test", "127.0.0.1")
	port := u.Addr().Port()
	g := fetchtest.Start(t, fetchtest.Options{DNS: dns, Config: fmt.Sprintf(`
rules:
  - {name: opens, origins: ["http://a.test:%d"], methods: [GET], dangerous_allow_loopback: true}
  - {name: same-origin, origins: ["http://a.test:%d"]}
  - {name: other-origin, origins: ["http://b.test:%d"]}
`, port, port, port)})
	fetch := func(method, host string) error {
		_, err := g.Fetch(within(t), &request{Request: &fetchgatev1.HttpRequest{Method: method, Url: u.URLOf(host, "/")}})
		return err
	}
	for range 2 {
		if err := fetch("GET", "a.test"); err != nil {
			t.Fatal(err)
		}
		for _, c := range [][2]string{{"HEAD", "a.test"}, {"GET", "b.test"}} {
			if err := fetch(c[0], c[1]); status.Code(err) != codes.PermissionDenied || errorReason(err) != "ADDRESS_DENIED" {
				t.Errorf("%s of %s: %v", c[0], c[1], err)
			}
		}
	}
	// The first connection was there to be used: the second GET did.
	if opened, _ := u.Connections(); opened != 1 || len(u.Requests()) != 2 {
		t.Errorf("%d connections, %d requests; want 1 and 2", opened, len(u.Requests()))
	}
}
