package fetchtest_test

import (
	"net/http"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// TestRetry shows how a test of yours may look: its upstream fails once, then
// it answers, and it tells what it was sent.
func TestRetry(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	upstream := fetchtest.NewRecorder(t, fetchtest.RecorderOptions{
		Listen: fetchtest.Listen{Authority: authority, Split: fetchtest.Seed(t)},
		Respond: fetchtest.Sequence(
			fetchtest.Answer(503, "", "Retry-After: 0"),
			fetchtest.Answer(200, "hello"),
		),
	})
	c := client(t, authority) // here stands what you test
	for range 2 {
		response, err := c.Get(upstream.URL("/greeting"))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode == http.StatusOK {
			break
		}
	}
	requests := upstream.Requests()
	if len(requests) != 2 || requests[1].Target != "/greeting" {
		t.Errorf("the upstream was sent %d requests", len(requests))
	}
}

// Upstreams belong to a test, so the example is one: TestRetry.
func Example() {}
