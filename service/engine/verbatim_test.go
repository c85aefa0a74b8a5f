package engine_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/body"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// TestVerbatimRequest: nothing is added to a verbatim request, nothing of its
// answer is kept, and its connections are its caller's.
func TestVerbatimRequest(t *testing.T) {
	s := scripted(step{status: 302, fields: append(location("/b"), fetch.Field{Name: "Set-Cookie", Value: []byte("a=1")})})
	p := plan(t, "https://example.com/")
	p.Verbatim, p.Traceparent, p.Response.Decode = true, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false
	p.Fields = []fetch.Field{{Name: "Host", Value: []byte("example.com")}, {Name: "b_c"}}
	rules := []*configv1.Rule{{Name: "all", Origins: []string{"https://example.com"}, SendTraceparent: true}}
	k := &sink{}
	report, err := under(t, s, rules).Run(t.Context(), p, k)
	if err != nil || !slices.Equal(k.events, []string{"head 302 https://example.com/", "data answer 1"}) {
		t.Fatalf("got %v, %q", err, k.events)
	}
	r := s.requests[0]
	if !r.Verbatim || len(r.Fields) != 2 || r.Fields[1].Name != "b_c" || r.Framing != fetch.FramingNone || len(report.Cookies) > 0 {
		t.Errorf("the request is %+v, the jar holds %v", r, report.Cookies)
	}
	p.Verbatim, p.Fields[1].Name = false, "b-c"
	if _, err := under(t, s, rules).Run(t.Context(), p, &sink{}); err != nil {
		t.Fatal(err)
	}
	if n := len(s.requests[1].Fields); n != 3 {
		t.Errorf("without verbatim there are %d fields, want one for the trace", n)
	}
}

// TestPartitions: whose connections a fetch may use.
func TestPartitions(t *testing.T) {
	partitions := map[string]string{}
	for name, c := range map[string]struct {
		verbatim bool
		affinity string
		caller   string
	}{
		"shared":                             {false, "", "shop"},
		"verbatim":                           {true, "", "shop"},
		"another caller's verbatim":          {true, "", "bank"},
		"an affinity":                        {false, "key", "shop"},
		"another caller's affinity":          {false, "key", "bank"},
		"an affinity like a caller's name":   {false, "shop", "shop"},
		"another caller's verbatim affinity": {true, "other", "bank"},
	} {
		s := ok()
		p := plan(t, "http://example.com/")
		p.Verbatim, p.Affinity, p.Caller.Name = c.verbatim, c.affinity, c.caller
		if _, err := over(t, s).Run(t.Context(), p, &sink{}); err != nil {
			t.Fatal(err)
		}
		key := s.requests[0].Route.Key
		if other, taken := partitions[key]; taken {
			t.Errorf("%s and %s have the pool key %q", name, other, key)
		}
		partitions[key] = name
	}
}

// TestTrailersOfRequests: they make the body one in chunks, are named before it
// unless a verbatim request names none, and go where the fields go.
func TestTrailersOfRequests(t *testing.T) {
	trailers := []fetch.Field{{Name: "B", Value: []byte("1")}, {Name: "a"}, {Name: "b"}, {Name: "Content-Digest"}}
	for name, c := range map[string]struct {
		verbatim bool
		fields   []fetch.Field
	}{
		"named":                      {false, nil},
		"verbatim":                   {true, nil},
		"verbatim, with their field": {true, []fetch.Field{{Name: "trailer"}}},
	} {
		s := ok()
		p := plan(t, "http://example.com/")
		p.Source, p.Trailers, p.Verbatim, p.Fields = &source{text: "body", length: 4}, trailers, c.verbatim, c.fields
		if _, err := over(t, s).Run(t.Context(), p, &sink{}); err != nil {
			t.Fatal(err)
		}
		if r := s.requests[0]; r.Framing != fetch.FramingChunked || len(r.Trailers()) != 4 || strings.Join(r.TrailerNames, " ") != "B a Content-Digest" {
			t.Errorf("%s: the request is %+v", name, r)
		}
	}

	s := scripted(
		step{status: 307, fields: location("/b")}, step{status: 308, fields: location("http://other.example.com/")},
		step{status: 303, fields: location("/c")}, step{status: 200})
	p := plan(t, "http://example.com/")
	p.Method, p.Redirect.Max = "POST", 3
	p.Source, p.Trailers = &source{text: "body", length: 4}, trailers
	if _, err := over(t, s).Run(t.Context(), p, &sink{}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"B a b Content-Digest", "B a b Content-Digest", "Content-Digest", ""} {
		var got []string
		if r := s.requests[i]; r.Trailers != nil {
			for _, f := range r.Trailers() {
				got = append(got, f.Name)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("hop %d has the trailers %q, want %q", i+1, got, want)
		}
	}
}

// TestExpectation: what is expected of which upstream, and what a 417 does.
func TestExpectation(t *testing.T) {
	const failed = 417
	unreadable := fetch.Fail(fetch.ReasonBodyNotRewindable, "it was read", nil)
	for name, c := range map[string]struct {
		steps   []step
		alter   func(*fetch.Plan)
		expects []bool // of each hop
		events  []string
	}{
		"as asked": {[]step{{status: 200}}, func(*fetch.Plan) {}, []bool{true}, []string{"head 200 http://example.com/", "data answer 1"}},
		"not asked": {[]step{{status: failed}}, func(p *fetch.Plan) { p.ExpectContinue = false }, []bool{false},
			[]string{"head 417 http://example.com/", "data answer 1"}},
		"a 417": {[]step{{status: failed}, {status: 200}}, func(*fetch.Plan) {}, []bool{true, false},
			[]string{"head 200 http://example.com/", "data answer 2"}},
		"a 417 again": {[]step{{status: failed}}, func(*fetch.Plan) {}, []bool{true, false},
			[]string{"head 417 http://example.com/", "data answer 2"}},
		"a 417 to a verbatim request": {[]step{{status: failed}}, func(p *fetch.Plan) { p.Verbatim = true }, []bool{true},
			[]string{"head 417 http://example.com/", "data answer 1"}},
		"a 417, and a body that cannot be sent again": {[]step{{status: failed}}, func(p *fetch.Plan) { p.Source = &once{refusal: unreadable} }, []bool{true},
			[]string{"head 417 http://example.com/", "data answer 1"}},
		"a redirect that drops the body": {[]step{{status: 303, fields: location("/b")}, {status: failed}}, func(p *fetch.Plan) { p.Redirect.Max = 1 },
			[]bool{true, false}, []string{"hop 303 http://example.com/", "head 417 http://example.com/b", "data answer 2"}},
		"a 417 after a redirect, and another redirect": {
			[]step{{status: 307, fields: location("/b")}, {status: failed}, {status: 307, fields: location("/c")}, {status: 200}},
			func(p *fetch.Plan) { p.Redirect.Max = 2 }, []bool{true, true, false, false},
			[]string{"hop 307 http://example.com/", "hop 307 http://example.com/b", "head 200 http://example.com/c", "data answer 4"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, k, p := scripted(c.steps...), &sink{}, plan(t, "http://example.com/")
			act := s.act
			s.act = func(ctx context.Context, r *fetch.Request) error {
				if r.Body != nil && !r.ExpectContinue {
					if b, err := io.ReadAll(r.Body); string(b) != "body" || err != nil {
						t.Errorf("the body is %q, %v", b, err)
					}
				}
				return act(ctx, r)
			}
			p.Method, p.Source, p.ExpectContinue, p.Timeouts.Continue = "POST", &source{text: "body", length: 4}, true, time.Second
			c.alter(p)
			report, err := over(t, s).Run(t.Context(), p, k)
			if err != nil || !slices.Equal(k.events, c.events) || len(report.Attempts) != 1 || len(report.Attempts[0].Hops) != len(c.expects) {
				t.Errorf("got %v, %q, %d hops", err, k.events, report.Hops())
			}
			for i, r := range s.requests {
				if r.ExpectContinue != c.expects[i] || r.Timeouts.Continue != time.Second {
					t.Errorf("hop %d expects 100 Continue: %v", i+1, r.ExpectContinue)
				}
			}
			if opened, isCounted := p.Source.(*source); isCounted && opened.opened != int(s.closed.Load()) {
				t.Errorf("the body was opened %d times and closed %d times", opened.opened, s.closed.Load())
			}
		})
	}
}

// once is a request body that can be read once.
type once struct {
	opened  bool
	refusal error
}

func (o *once) Open() (io.ReadCloser, error) {
	if o.opened {
		return nil, o.refusal
	}
	o.opened = true
	return io.NopCloser(strings.NewReader("body")), nil
}

func (*once) Length() int64 { return 4 }

// TestBodiesTellWhatIsThere: the transport learns how much of a body can be read
// at once.
func TestBodiesTellWhatIsThere(t *testing.T) {
	for name, c := range map[string]struct {
		source fetch.Source
		want   []int // before and after 3 bytes are read
	}{
		"in memory":     {body.Raw([]byte("hello")), []int{5, 2}},
		"in chunks":     {body.Unsized(body.Raw([]byte("hello"))), []int{5, 2}},
		"not in memory": {&source{text: "hello", length: 5}, []int{0, 0}},
	} {
		s := ok()
		var got []int
		s.act = func(_ context.Context, r *fetch.Request) error {
			there, ok := r.Body.(interface{ Len() int })
			if !ok {
				return fmt.Errorf("the body is a %T", r.Body)
			}
			got = append(got, there.Len())
			_, err := io.ReadFull(r.Body, make([]byte, 3))
			got = append(got, there.Len())
			return err
		}
		p := plan(t, "http://example.com/")
		p.Source = c.source
		if _, err := over(t, s).Run(t.Context(), p, &sink{}); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, %v, want %v", name, got, err, c.want)
		}
	}
}

// TestChunksAreKept: the transport is asked to tell of chunks, and the sink is
// told where they end, if the plan says so.
func TestChunksAreKept(t *testing.T) {
	for _, keep := range []bool{false, true} {
		s, k := ok(), &sink{}
		s.body.pieces, s.body.chunks = []string{"one", "two"}, true
		p := plan(t, "http://example.com/")
		p.Response.KeepChunks = keep
		if _, err := over(t, s).Run(t.Context(), p, k); err != nil {
			t.Fatal(err)
		}
		if s.requests[0].KeepChunks != keep || k.chunks != 2 {
			t.Errorf("kept %v: the request is %+v, %d chunks ended", keep, s.requests[0], k.chunks)
		}
	}
}
