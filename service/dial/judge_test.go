package dial_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetch"
)

func TestAnswers(t *testing.T) {
	const public, public6 = "93.184.215.14", "2606:2800:21f::1"
	for name, c := range map[string]struct {
		answer []string
		filter bool
		dialed []string
		audit  string // of the denial; empty means a connection
	}{
		"allowed":                 {[]string{public}, false, []string{public}, ""},
		"denied":                  {[]string{"10.0.0.1"}, false, nil, "10.0.0.1:443"},
		"all denied":              {[]string{"10.0.0.1", "::1"}, false, nil, "10.0.0.1:443"},
		"all denied, filtered":    {[]string{"10.0.0.1", "::1"}, true, nil, "10.0.0.1:443"},
		"mixed":                   {[]string{public, "10.0.0.1", "::1"}, false, nil, "10.0.0.1:443"},
		"mixed, filtered":         {[]string{"10.0.0.1", public}, true, []string{public}, ""},
		"mapped is unmapped":      {[]string{"::ffff:93.184.215.14"}, false, []string{public}, ""},
		"mapped private":          {[]string{"::ffff:10.0.0.1"}, false, nil, "10.0.0.1:443"},
		"mapped metadata, mixed":  {[]string{public6, "::ffff:169.254.169.254"}, false, nil, "169.254.169.254:443"},
		"link-local with zone":    {[]string{"fe80::1%eth0"}, false, nil, "[fe80::1%eth0]:443"},
		"public with zone":        {[]string{public6 + "%eth0"}, false, nil, "upstream.test:443: zoned address " + public6 + "%eth0"},
		"mapped with zone":        {[]string{"::ffff:93.184.215.14%eth0"}, false, nil, "upstream.test:443: zoned address ::ffff:93.184.215.14%eth0"},
		"zone, filtered":          {[]string{public6 + "%eth0", public}, true, []string{public}, ""},
		"zone, filtered, nothing": {[]string{public6 + "%eth0"}, true, nil, "upstream.test:443: zoned address " + public6 + "%eth0"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(nil)
			d := dial.New(dial.Options{Resolver: resolves(c.answer...), Connect: w.connect})
			route := routeTo(inside)
			route.FilterMixed = c.filter
			r, err := d.Dial(t.Context(), "upstream.test", 443, route, timeouts, 4)
			equal(t, "what was dialed", w.dialed, c.dialed)
			if c.audit == "" {
				if err != nil {
					t.Fatal(err)
				}
				_ = r.Conn.Close()
				return
			}
			if d := isDenied(t, err); d.Audit != c.audit || d.Reason != fetch.ReasonAddressDenied {
				t.Errorf("denial is %s of %q, want that of %q", d.Reason, d.Audit, c.audit)
			}
		})
	}
}

func TestZonedLiteral(t *testing.T) {
	w := newWire(nil)
	_, err := dial.New(dial.Options{Connect: w.connect}).Dial(t.Context(), "2606:2800:21f::1%eth0", 443, routeTo(inside), timeouts, 4)
	isDenied(t, err)
	equal(t, "what was dialed", w.dialed, nil)
}

// A denied address is dialed by nobody, not even as the loser of a race whose
// allowed addresses all hang.
func TestDeniedAddressNeverRaces(t *testing.T) {
	for _, filter := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWire(map[string]behaviour{"93.184.215.14": hangs, "2606:2800:21f::1": hangs})
			resolver := resolves("93.184.215.14", "10.0.0.1", "fd00::1", "2606:2800:21f::1", "169.254.169.254")
			route := routeTo(inside)
			route.FilterMixed = filter
			_, err := dial.New(dial.Options{Resolver: resolver, Connect: w.connect}).
				Dial(t.Context(), "mixed.test", 443, route, timeouts, 4)
			if !filter {
				isDenied(t, err)
				equal(t, "what was dialed", w.dialed, nil)
				return
			}
			isFailure(t, err, fetch.ReasonConnectTimeout)
			equal(t, "what was dialed", w.dialed, []string{"93.184.215.14", "2606:2800:21f::1"})
		})
	}
}

// numbered returns n addresses of 198.18.0.0/15, a benchmark network.
func numbered(n int) []string {
	addrs := make([]string, n)
	for i := range addrs {
		addrs[i] = fmt.Sprintf("198.18.%d.%d", i/256, i%256)
	}
	return addrs
}

func TestSixteenAddressesOfAnAnswerAreUsed(t *testing.T) {
	addrs := numbered(1000)
	acts := make(map[string]behaviour)
	for _, a := range addrs {
		acts[a] = fails(net.ErrClosed)
	}
	w := newWire(acts)
	route := routeTo(nothing)
	route.MaxDials = 100
	r, err := dial.New(dial.Options{Resolver: resolves(addrs...), Connect: w.connect}).
		Dial(t.Context(), "many.test", 443, route, timeouts, 100)
	isFailure(t, err, fetch.ReasonConnectUnreachable)
	if r.Dials != 16 {
		t.Errorf("%d dials, want 16", r.Dials)
	}
	equal(t, "what was dialed", w.dialed, addrs[:16])
}

func TestAnswerIsJudgedBeyondTheAddressesUsed(t *testing.T) {
	w := newWire(nil)
	_, err := dial.New(dial.Options{Resolver: resolves(append(numbered(999), "10.0.0.1")...), Connect: w.connect}).
		Dial(t.Context(), "many.test", 443, routeTo(inside), timeouts, 4)
	isDenied(t, err)
	equal(t, "what was dialed", w.dialed, nil)
}

func TestAddressGivenTwiceIsDialedOnce(t *testing.T) {
	w := newWire(map[string]behaviour{"192.0.2.1": fails(net.ErrClosed)})
	_, err := dial.New(dial.Options{Resolver: resolves("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"), Connect: w.connect}).
		Dial(t.Context(), "twice.test", 443, routeTo(nothing), timeouts, 4)
	isFailure(t, err, fetch.ReasonConnectUnreachable)
	equal(t, "what was dialed", w.dialed, []string{"192.0.2.1"})
}

func TestFamiliesTakeTurns(t *testing.T) {
	for name, c := range map[string]struct{ answer, dialed string }{
		"six first":  {"2001:db8::1 2001:db8::2 192.0.2.1 192.0.2.2", "2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2"},
		"four first": {"192.0.2.1 192.0.2.2 192.0.2.3 2001:db8::1", "192.0.2.1 2001:db8::1 192.0.2.2 192.0.2.3"},
		"more last":  {"192.0.2.1 2001:db8::1 2001:db8::2", "192.0.2.1 2001:db8::1 2001:db8::2"},
		"one family": {"2001:db8::1 2001:db8::2", "2001:db8::1 2001:db8::2"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				answer := strings.Fields(c.answer)
				acts := make(map[string]behaviour)
				for _, a := range answer {
					acts[a] = fails(net.ErrClosed)
				}
				w := newWire(acts)
				_, err := dial.New(dial.Options{Resolver: resolves(answer...), Connect: w.connect}).
					Dial(t.Context(), "both.test", 443, routeTo(nothing), timeouts, 4)
				isFailure(t, err, fetch.ReasonConnectUnreachable)
				equal(t, "what was dialed", w.dialed, strings.Fields(c.dialed))
			})
		})
	}
}

// FuzzAnswer gives any addresses as an answer: what is dialed was allowed, is
// plain, and came from the answer.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("\x04\x7f\x00\x00\x01\x04\x5d\xb8\xd7\x0e"), false)
	f.Add([]byte("\x10\xfe\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x04\x5d\xb8\xd7\x0e"), true)
	f.Add([]byte("\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x00\x00\x01"), true)
	f.Add([]byte("\x05\x26\x00"), false)
	f.Fuzz(func(t *testing.T, raw []byte, filter bool) {
		answer := decode(raw)
		denied := 0
		for _, a := range answer {
			if inside(a.Unmap()) || a.Zone() != "" {
				denied++
			}
		}
		var mu sync.Mutex
		var dialed []netip.Addr
		d := dial.New(dial.Options{
			Resolver: &stub{answers: [][]netip.Addr{answer}},
			Connect: func(_ context.Context, to netip.AddrPort, _ dial.Control) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				dialed = append(dialed, to.Addr())
				return nil, net.ErrClosed
			},
		})
		route := routeTo(inside)
		route.FilterMixed = filter
		_, err := d.Dial(t.Context(), "any.test", 443, route, fetch.Timeouts{DNS: time.Minute, Connect: time.Minute}, 4)
		if err == nil {
			t.Fatal("connected to nothing")
		}
		if denied > 0 && !filter && len(dialed) > 0 {
			t.Fatalf("%v: %v were dialed though one is denied", answer, dialed)
		}
		for _, a := range dialed {
			if inside(a) || a.Zone() != "" || a.Is4In6() || !a.IsValid() {
				t.Fatalf("%v: %s was dialed", answer, a)
			}
		}
	})
}

// decode makes addresses of bytes: 4 and 16 begin an address of that many
// bytes, 0 is no address, anything else begins one with a zone.
func decode(raw []byte) []netip.Addr {
	var addrs []netip.Addr
	for len(raw) > 0 {
		n, zone := int(raw[0]), ""
		switch n {
		case 4, 16:
		case 0:
			addrs = append(addrs, netip.Addr{})
			raw = raw[1:]
			continue
		default:
			n, zone = 16, "eth0"
		}
		if len(raw) <= n {
			break
		}
		a, _ := netip.AddrFromSlice(raw[1 : 1+n])
		addrs = append(addrs, a.WithZone(zone))
		raw = raw[1+n:]
	}
	return addrs
}

// TestJudgeAnswersAsDialWould: the same end, the word on every address, and no
// connection.
func TestJudgeAnswersAsDialWould(t *testing.T) {
	notFound := func() *stub { return &stub{err: &net.DNSError{Err: "no such host", IsNotFound: true}} }
	for name, c := range map[string]struct {
		host     string
		resolver *stub
		filter   bool
		says     string
		asked    int
	}{
		"all allowed":   {"a.test", resolves("93.184.215.14", "2606:2800:21f::1"), false, "93.184.215.14 2606:2800:21f::1", 1},
		"given twice":   {"a.test", resolves("93.184.215.14", "::ffff:93.184.215.14"), false, "93.184.215.14", 1},
		"mixed":         {"a.test", resolves("93.184.215.14", "10.0.0.1", "10.0.0.2"), false, "93.184.215.14 !10.0.0.1 !10.0.0.2", 1},
		"mixed, filter": {"a.test", resolves("93.184.215.14", "10.0.0.1"), true, "93.184.215.14 !10.0.0.1", 1},
		"none, filter":  {"a.test", resolves("10.0.0.1", "::ffff:10.0.0.2"), true, "!10.0.0.1 !10.0.0.2", 1},
		"a zone":        {"a.test", resolves("2606:2800:21f::1%eth0"), false, "!2606:2800:21f::1%eth0", 1},
		"no such name":  {"a.test", notFound(), false, "", 1},
		"no address":    {"a.test", resolves(), false, "", 1},
		"a literal":     {"10.0.0.1", notFound(), false, "!10.0.0.1", 0},
		"localhost":     {"db.localhost", notFound(), false, "!127.0.0.1 !::1", 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(nil)
			d := dial.New(dial.Options{Resolver: c.resolver, Connect: w.connect})
			route := routeTo(inside)
			route.FilterMixed = c.filter
			judged, err := d.Judge(t.Context(), c.host, 443, route, timeouts.DNS)
			equal(t, "what was dialed", w.dialed, nil)
			if len(c.resolver.asked) != c.asked {
				t.Errorf("the resolver was asked %q, want %d queries", c.resolver.asked, c.asked)
			}
			var said []string
			for _, j := range judged {
				said = append(said, map[bool]string{true: "!"}[j.Denial != nil]+j.Address.String())
			}
			equal(t, "what it says", said, strings.Fields(c.says))
			r, dialErr := d.Dial(t.Context(), c.host, 443, route, timeouts, 4)
			if dialErr == nil {
				_ = r.Conn.Close()
			}
			if fmt.Sprintf("%T %+v", err, err) != fmt.Sprintf("%T %+v", dialErr, dialErr) {
				t.Errorf("it ends with %v, a dial with %v", err, dialErr)
			}
		})
	}
	_, err := dial.New(dial.Options{Resolver: notFound()}).Judge(t.Context(), "a.test", 443, fetch.Route{}, timeouts.DNS)
	isFailure(t, err, fetch.ReasonInternalFault)
}

// TestJudgeKeepsTheTimeOfALookUp: the look-up is cut off, and it says so.
func TestJudgeKeepsTheTimeOfALookUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, err := dial.New(dial.Options{Resolver: silent{}}).Judge(t.Context(), "a.test", 443, routeTo(nothing), 3*time.Second)
		isFailure(t, err, fetch.ReasonResolveTimeout)
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("it took %s, want 3s", took)
		}
	})
}
