package transport_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// TestRawUpgrades: the responses of other parsers' tests that change to another
// protocol are taken where the request asked for that, and what follows the head
// is the new protocol's. Where it did not ask, they are refused.
func TestRawUpgrades(t *testing.T) {
	tried := 0
	for _, c := range fetchtest.ResponseCases(t) {
		if c.Verdict != fetchtest.VerdictAccept || !bytes.HasPrefix(c.Raw, []byte("HTTP/1.1 101 ")) {
			continue
		}
		tried++
		t.Run(c.ID, func(t *testing.T) {
			u := wireUpstream(t, overH1, func(conn net.Conn) {
				readRequest(bufio.NewReader(conn))
				conn.Write(c.Raw)
			})
			r := get(t, u.url, overH1)
			fails(t, newTransport(t), get(t, u.url, overH1), fetch.ReasonMalformedHead)
			r.Framing, r.Fields = fetch.FramingUpgrade, list("Upgrade: h2c")
			resp, _, err := newTransport(t).RoundTrip(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if resp.Status != 101 || resp.Upgraded == nil {
				t.Fatalf("%d, another protocol: %t", resp.Status, resp.Upgraded != nil)
			}
			defer resp.Upgraded.Close()
			_, behind, _ := bytes.Cut(c.Raw, []byte("\r\n\r\n"))
			if got, err := io.ReadAll(resp.Upgraded); !bytes.Equal(got, behind) || err != nil {
				t.Errorf("behind the head %q, %v, want %q", got, err, behind)
			}
		})
	}
	if tried != 3 {
		t.Errorf("%d cases, want 3", tried)
	}
}
