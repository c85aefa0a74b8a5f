package service_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/status"

	"github.com/fetchgate/fetchgate/service"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// leading has every connection go to an upstream, and keeps where they were meant
// to go.
type leading struct {
	to netip.AddrPort

	mu     sync.Mutex
	dialed []string
}

func (l *leading) connect(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	l.mu.Lock()
	l.dialed = append(l.dialed, to.String())
	l.mu.Unlock()
	return connectTo(l.to)(ctx, to)
}

func (l *leading) taken() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.dialed)
}

// TestMetadataByItsKey: a rule with the key reaches what it names and nothing
// beside, and everybody is told.
func TestMetadataByItsKey(t *testing.T) {
	u := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{})
	network := &leading{to: u.Addr()}
	dns := fetchtest.NewDNS(t)
	for name, address := range map[string]string{
		"metadata.google.internal": "169.254.169.254", "metadata.goog": "169.254.169.254", "instance-data.ec2.internal": "169.254.169.254",
		"other.example": "169.254.169.254", "www.example": "169.254.169.254", "tasks.example": "169.254.170.2",
	} {
		dns.Set(name, address)
	}
	var audit bytes.Buffer
	s := reloadingAt(t, filepath.Join(t.TempDir(), "fetchgate.yaml"), `rules:
  - name: machine
    origins: ["http://metadata.google.internal", "http://169.254.169.254", "http://www.example", "http://tasks.example"]
    allow_addresses: [169.254.169.254]
    dangerous_allow_metadata: true
  - {name: without, origins: ["http://metadata.goog"], allow_addresses: [169.254.169.254]}
  - {name: others, origins: ["http://*"], dangerous_allow_metadata: true}
`, service.Options{Resolver: dns, Connect: asking(network.connect), Stdout: &audit})
	for _, url := range []string{"http://metadata.google.internal/token", "http://169.254.169.254/token", "http://www.example/"} {
		for _, rpc := range rpcs {
			if a, err := rpc.call(within(t), s, get(url)); err != nil || a.head.GetStatus() != 200 {
				t.Errorf("%s of %s: %v, %v", rpc.name, url, a, err)
			}
		}
	}
	before := network.taken()
	if slices.ContainsFunc(before, func(to string) bool { return to != "169.254.169.254:80" }) || len(before) == 0 {
		t.Errorf("dialed %q", before)
	}
	for url, want := range map[string]string{
		"http://metadata.goog/":              "dangerous_allow_metadata in rule \"without\"",
		"http://instance-data.ec2.internal/": "Only a rule that names instance-data.ec2.internal itself, with dangerous_allow_metadata",
		"http://other.example/":              "allow_addresses, with dangerous_allow_metadata",
		"http://tasks.example/":              "allow_addresses, with dangerous_allow_metadata",
	} {
		_, err := whole(within(t), s, get(url))
		if told := fmt.Sprint(err, status.Convert(err).Details()); err == nil || !strings.Contains(strings.ReplaceAll(told, `\"`, `"`), want) {
			t.Errorf("%s ends with %s, want the hint %s", url, told, want)
		}
	}
	if after := network.taken(); len(after) != len(before) {
		t.Errorf("dialed %q", after[len(before):])
	}
	if n := s.metric(t, `fetchgate_dangerous_settings{setting="dangerous_allow_metadata"}`); n != 2 {
		t.Errorf("the metric says %v", n)
	}
	if !strings.Contains(s.log.String(), "rules[0].dangerous_allow_metadata") {
		t.Error("the log does not say so at the start")
	}
	s.stop()
	<-s.served
	s.served <- nil
	if n := strings.Count(audit.String(), `"dangerous":["dangerous_allow_metadata"]`); n != 6 {
		t.Errorf("%d of 6 lines of the record name the key:\n%s", n, audit.String())
	}
}

// TestOwnListenersByTheirKey: fetchgate can be had to call itself, where the rule
// says so and opens the address too.
func TestOwnListenersByTheirKey(t *testing.T) {
	g, own := startWhere(t, func(own []uint16) string {
		return fmt.Sprintf("rules:\n"+
			"  - {name: both, origins: [\"http://127.0.0.1:%d\", \"http://localhost:%d\"], dangerous_allow_own_listeners: true, dangerous_allow_loopback: true}\n"+
			"  - {name: only-own, origins: [\"http://*\"], ports: [%d], dangerous_allow_own_listeners: true}\n"+
			"  - {name: only-loopback, origins: [\"http://127.0.0.1:%d\"], dangerous_allow_loopback: true}\n", own[1], own[1], own[1], own[0])
	})
	g.dns.Set("own.test", "127.0.0.1")
	for url, isAllowed := range map[string]bool{
		fmt.Sprintf("http://127.0.0.1:%d/healthz", own[1]): true,
		fmt.Sprintf("http://localhost:%d/healthz", own[1]): true,
		fmt.Sprintf("http://own.test:%d/healthz", own[1]):  false, // without the key for loopback
		fmt.Sprintf("http://127.0.0.1:%d/", own[0]):        false, // without the key for listeners
	} {
		got := g.fetch(t, url)
		if want := map[bool]string{true: "CONNECT_REFUSED", false: "ADDRESS_DENIED"}[isAllowed]; got.reason != want || (len(got.dialed) > 0) != isAllowed {
			t.Errorf("%s: %s, dialed %v; want %s", url, got.reason, got.dialed, want)
		}
	}
}
