package cookie_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/cookie"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// TestBytesOfAJar: whoever fills it, a jar has no more than MaxBytes; the oldest
// cookies go.
func TestBytesOfAJar(t *testing.T) {
	to, err := fetch.ParseURL("https://example.com/")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	var stored cookie.Jar
	for i := range 40 {
		set := fmt.Sprintf("n%d=%s", i, strings.Repeat("v", 4000))
		stored.Store(to, []fetch.Field{{Name: "Set-Cookie", Value: []byte(set)}}, now)
	}
	value := stored.Value(to, now)
	if len(value) > cookie.MaxBytes+2*cookie.MaxTotal || !bytes.Contains(value, []byte("n39=")) || bytes.Contains(value, []byte("n0=")) {
		t.Errorf("%d bytes of cookies go out", len(value))
	}
	var given cookie.Jar
	taken := 0
	for i := range 40 {
		err = given.Add(fetch.Cookie{Name: fmt.Appendf(nil, "n%d", i), Value: bytes.Repeat([]byte("v"), 4000)}, to)
		if err != nil {
			break
		}
		taken++
	}
	if taken != 16 || err == nil || !strings.Contains(err.Error(), "65536") {
		t.Errorf("%d cookies were taken, then %v", taken, err)
	}
	// In the place of one that is there, another of its size still fits.
	if err := given.Add(fetch.Cookie{Name: []byte("n3"), Value: bytes.Repeat([]byte("w"), 4000)}, to); err != nil {
		t.Error(err)
	}
}
