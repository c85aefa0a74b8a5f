package server

import (
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"
)

// TestTraceparent: what callers say of their trace is taken if it names one.
func TestTraceparent(t *testing.T) {
	const trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	zeros := strings.Repeat("0", 32)
	for given, taken := range map[string]bool{
		"00-" + trace + "-" + span + "-01":                      true,
		"00-" + trace + "-" + span + "-00":                      true,
		"00-" + zeros[:31] + "1-" + zeros[:15] + "1-00":         true,
		"00-" + zeros + "-" + zeros[:16] + "-01":                false,
		"00-" + zeros + "-" + span + "-01":                      false,
		"00-" + trace + "-" + zeros[:16] + "-01":                false,
		"00-" + trace + "-" + zeros[:16] + "-00":                false,
		"01-" + trace + "-" + span + "-01":                      false,
		"00-" + strings.ToUpper(trace) + "-" + span + "-01":     false,
		"00-" + trace + "-" + span + "-01-" + "more":            false,
		"00-" + trace + "-" + span + "-01\r\nX-Injected: field": false,
	} {
		want := ""
		if taken {
			want = given
		}
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("traceparent", given))
		if got := traceparent(ctx); got != want {
			t.Errorf("%q: the trace is %q, want %q", given, got, want)
		}
	}
	several := metadata.NewIncomingContext(t.Context(), metadata.Pairs("traceparent", "00-"+trace+"-"+span+"-01", "traceparent", "00-"+trace+"-"+span+"-00"))
	if got := traceparent(several); got != "" {
		t.Errorf("of two, the trace is %q", got)
	}
}
