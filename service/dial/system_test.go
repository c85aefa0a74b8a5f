package dial_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/fetchgate/fetchgate/service/dial"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// dnsServer is a DNS server on loopback, over UDP and TCP. For each question it
// sends the messages that answer returns, which may be none.
type dnsServer struct {
	answer func(dnsmessage.Question) []dnsmessage.Message

	udp *net.UDPConn
	tcp *net.TCPListener
	wg  sync.WaitGroup

	mu    sync.Mutex
	asked []string
}

func serveDNS(t *testing.T, answer func(dnsmessage.Question) []dnsmessage.Message) *dnsServer {
	t.Helper()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s := &dnsServer{answer: answer, udp: udp, tcp: tcp}
	s.wg.Go(s.serveUDP)
	s.wg.Go(s.serveTCP)
	t.Cleanup(func() {
		_ = udp.Close()
		_ = tcp.Close()
		s.wg.Wait()
	})
	return s
}

// resolver is the one of a service, asking s.
func (s *dnsServer) resolver() *net.Resolver {
	return dial.SystemResolver(s.udp.LocalAddr().String(), s.tcp.Addr().String())
}

// questions returns what was asked, sorted and each once: a resolver asks again
// when it gets no answer.
func (s *dnsServer) questions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Compact(slices.Sorted(slices.Values(s.asked)))
}

func (s *dnsServer) serveUDP() {
	for {
		query := make([]byte, 4096)
		n, from, err := s.udp.ReadFromUDPAddrPort(query)
		if err != nil {
			return
		}
		for _, reply := range s.replies(query[:n], 1232) {
			_, _ = s.udp.WriteToUDPAddrPort(reply, from)
		}
	}
}

func (s *dnsServer) serveTCP() {
	for {
		conn, err := s.tcp.Accept()
		if err != nil {
			return
		}
		length := make([]byte, 2)
		if _, err := io.ReadFull(conn, length); err == nil {
			query := make([]byte, binary.BigEndian.Uint16(length))
			if _, err := io.ReadFull(conn, query); err == nil {
				for _, reply := range s.replies(query, 1<<16) {
					_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
				}
			}
		}
		_ = conn.Close()
	}
}

// replies returns the messages that answer a query, cut short where they are
// larger than most.
func (s *dnsServer) replies(query []byte, most int) [][]byte {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	s.mu.Lock()
	s.asked = append(s.asked, q.Name.String()+" "+q.Type.String())
	s.mu.Unlock()
	var replies [][]byte
	for _, m := range s.answer(q) {
		m.ID, m.Response, m.RecursionAvailable, m.RecursionDesired = header.ID, true, true, header.RecursionDesired
		if m.Questions == nil {
			m.Questions = []dnsmessage.Question{q}
		}
		raw, err := m.Pack()
		if err == nil && len(raw) > most {
			m.Truncated, m.Answers = true, nil
			raw, err = m.Pack()
		}
		if err != nil {
			return nil
		}
		replies = append(replies, raw)
	}
	return replies
}

// status is an answer with nothing but a response code.
func status(code dnsmessage.RCode) []dnsmessage.Message {
	return []dnsmessage.Message{{Header: dnsmessage.Header{RCode: code}}}
}

func name(s string) dnsmessage.Name { return dnsmessage.MustNewName(s) }

func recordA(owner dnsmessage.Name, addr string) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: owner, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
		Body:   &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()},
	}
}

func recordCNAME(owner, target dnsmessage.Name) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: owner, Type: dnsmessage.TypeCNAME, Class: dnsmessage.ClassINET},
		Body:   &dnsmessage.CNAMEResource{CNAME: target},
	}
}

// onlyA answers questions for A records by records, and others by none.
func onlyA(records func(dnsmessage.Name) []dnsmessage.Resource) func(dnsmessage.Question) []dnsmessage.Message {
	return func(q dnsmessage.Question) []dnsmessage.Message {
		if q.Type != dnsmessage.TypeA {
			return status(dnsmessage.RCodeSuccess)
		}
		return []dnsmessage.Message{{Answers: records(q.Name)}}
	}
}

// chain is n aliases from owner to alias-n.test., then a record if addr is set.
func chain(owner dnsmessage.Name, n int, addr string) []dnsmessage.Resource {
	var records []dnsmessage.Resource
	for i := range n {
		next := name(fmt.Sprintf("alias-%d.test.", i+1))
		records = append(records, recordCNAME(owner, next))
		owner = next
	}
	if addr != "" {
		records = append(records, recordA(owner, addr))
	}
	return records
}

// asking dials a host whose addresses s tells, over a wire without a network.
func asking(t *testing.T, s *dnsServer, host string) (dial.Result, *wire, error) {
	t.Helper()
	w := newWire(nil)
	d := dial.New(dial.Options{Resolver: s.resolver(), Connect: w.connect})
	r, err := d.Dial(t.Context(), host, 443, routeTo(inside), timeouts, 4)
	if err == nil {
		_ = r.Conn.Close()
	}
	return r, w, err
}

func TestAnswersOfARealServer(t *testing.T) {
	loop := func(q dnsmessage.Name) []dnsmessage.Resource {
		return []dnsmessage.Resource{recordCNAME(q, name("b.test.")), recordCNAME(name("b.test."), q)}
	}
	malformed := func(dnsmessage.Question) []dnsmessage.Message {
		return []dnsmessage.Message{{Answers: []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: name("odd.test."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.UnknownResource{Type: dnsmessage.TypeA, Data: []byte{127}},
		}}}}
	}
	code := func(c dnsmessage.RCode) func(dnsmessage.Question) []dnsmessage.Message {
		return func(dnsmessage.Question) []dnsmessage.Message { return status(c) }
	}
	for title, c := range map[string]struct {
		answer    func(dnsmessage.Question) []dnsmessage.Message
		reason    fetch.Reason
		retryable bool
	}{
		"NXDOMAIN":                  {code(dnsmessage.RCodeNameError), fetch.ReasonNameNotFound, false},
		"no records":                {code(dnsmessage.RCodeSuccess), fetch.ReasonNameNotFound, false},
		"SERVFAIL":                  {code(dnsmessage.RCodeServerFailure), fetch.ReasonResolverFailed, true},
		"REFUSED":                   {code(dnsmessage.RCodeRefused), fetch.ReasonResolverFailed, true},
		"malformed":                 {malformed, fetch.ReasonResolverFailed, true},
		"alias loop":                {onlyA(loop), fetch.ReasonNameNotFound, false},
		"50 aliases and no address": {onlyA(func(q dnsmessage.Name) []dnsmessage.Resource { return chain(q, 50, "") }), fetch.ReasonNameNotFound, false},
	} {
		t.Run(title, func(t *testing.T) {
			r, w, err := asking(t, serveDNS(t, c.answer), "odd.test")
			if f := isFailure(t, err, c.reason); f.Retryable() != c.retryable {
				t.Errorf("retryable is %t, want %t", f.Retryable(), c.retryable)
			}
			if r.DNS <= 0 || r.DNS > time.Second {
				t.Errorf("the look-up took %s, want less than 1s", r.DNS)
			}
			equal(t, "what was dialed", w.dialed, nil)
		})
	}
}

func TestAliasesLeadToAddressesThatAreJudged(t *testing.T) {
	for addr, denied := range map[string]bool{"93.184.215.14": false, "169.254.169.254": true} {
		s := serveDNS(t, onlyA(func(q dnsmessage.Name) []dnsmessage.Resource { return chain(q, 50, addr) }))
		_, w, err := asking(t, s, "chain.test")
		if denied {
			isDenied(t, err)
			equal(t, "what was dialed", w.dialed, nil)
		} else {
			equal(t, "what was dialed", w.dialed, []string{addr})
		}
	}
}

func TestThousandRecords(t *testing.T) {
	s := serveDNS(t, onlyA(func(q dnsmessage.Name) []dnsmessage.Resource {
		var records []dnsmessage.Resource
		for _, a := range numbered(1000) {
			records = append(records, recordA(q, a))
		}
		return records
	}))
	w := newWire(nil)
	judged := 0
	route := routeTo(func(netip.Addr) bool { judged++; return false })
	r, err := dial.New(dial.Options{Resolver: s.resolver(), Connect: w.connect}).
		Dial(t.Context(), "many.test", 443, route, timeouts, 4)
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Conn.Close()
	if judged != 1001 { // all of the answer, and the one that is dialed
		t.Errorf("%d addresses were judged, want 1001", judged)
	}
	if r.DNS > time.Second || r.Dials != 1 {
		t.Errorf("result is %+v, want one dial after less than 1s", r)
	}
}

// An answer to another question is passed over, although its ID is right.
func TestAnswerToAnotherQuestionIsDropped(t *testing.T) {
	s := serveDNS(t, func(q dnsmessage.Question) []dnsmessage.Message {
		if q.Type != dnsmessage.TypeA {
			return status(dnsmessage.RCodeSuccess)
		}
		other := dnsmessage.Question{Name: name("other.test."), Type: q.Type, Class: q.Class}
		return []dnsmessage.Message{
			{Questions: []dnsmessage.Question{other}, Answers: []dnsmessage.Resource{recordA(other.Name, "198.51.100.66")}},
			{Answers: []dnsmessage.Resource{recordA(q.Name, "93.184.215.14")}},
		}
	})
	_, w, err := asking(t, s, "right.test")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "what was dialed", w.dialed, []string{"93.184.215.14"})
}

// On the wire a name is what the URL says, with nothing after it, also where
// the machine has search domains and the name is one label.
func TestQuestionsOnTheWire(t *testing.T) {
	for _, host := range []string{"internal", "a.b.test"} {
		s := serveDNS(t, func(dnsmessage.Question) []dnsmessage.Message { return status(dnsmessage.RCodeNameError) })
		_, _, err := asking(t, s, host)
		isFailure(t, err, fetch.ReasonNameNotFound)
		equal(t, "what was asked", s.questions(), []string{host + ". TypeA", host + ". TypeAAAA"})
	}
}

func TestSilentServer(t *testing.T) {
	s := serveDNS(t, func(dnsmessage.Question) []dnsmessage.Message { return nil })
	leaks := goleak.IgnoreCurrent()
	short := timeouts
	short.DNS = 50 * ms
	d := dial.New(dial.Options{Resolver: s.resolver(), Connect: newWire(nil).connect})
	r, err := d.Dial(t.Context(), "silent.test", 443, routeTo(nothing), short, 4)
	isFailure(t, err, fetch.ReasonResolveTimeout)
	if r.DNS < short.DNS || r.DNS > time.Second {
		t.Errorf("the look-up took %s, want %s", r.DNS, short.DNS)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 50*ms)
	defer cancel()
	_, err = d.Dial(ctx, "silent.test", 443, routeTo(nothing), timeouts, 4)
	var f *fetch.Failure
	if !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &f) {
		t.Errorf("error is %v, want that of the context", err)
	}
	goleak.VerifyNone(t, leaks)
}
