package credential

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// proof is a kind with one of its secrets: a field, a query parameter or a
// certificate.
type proof struct {
	place   fetch.CredentialPlace
	version int64
	// value is that of the field or parameter.
	value Secret
	// identity is the certificate, and identityID names it by content.
	identity   fetch.Identity
	identityID string
	// echoes are the spellings of the secret to look for, in lower case, the
	// longest first.
	echoes []Secret
}

var _ fetch.Proof = (*proof)(nil)

// Version implements fetch.Proof.
func (p *proof) Version() int64 { return p.version }

// String names the place.
func (p *proof) String() string { return p.place.String() + " " + hidden }

// GoString is String.
func (p *proof) GoString() string { return p.String() }

// Format prints String, for every verb.
func (p *proof) Format(s fmt.State, _ rune) { fmt.Fprint(s, p.String()) }

// LogValue is String.
func (p *proof) LogValue() slog.Value { return slog.StringValue(p.String()) }

// Apply implements fetch.Proof.
func (p *proof) Apply(r *fetch.Request) error {
	switch {
	case p.place.Certificate:
		r.Route.TLS.Identity, r.Route.TLS.IdentityID = p.identity, p.identityID
	case p.place.Param != "":
		if string(r.Target) == "*" {
			return fetch.Fail(fetch.ReasonCredentialUnavailable, "the target * has no query that the credential could go into", nil)
		}
		separator := "?"
		if bytes.Contains(r.Target, []byte("?")) {
			separator = "&"
		}
		param := fetch.EncodeForm([]fetch.Param{{Name: p.place.Param, Value: string(p.value.bytes())}})
		r.Target = slices.Concat(r.Target, []byte(separator+param))
	default:
		r.Fields = append(slices.Clip(r.Fields), fetch.Field{Name: p.place.Field, Value: p.value.bytes()})
	}
	return nil
}

// minEcho is the fewest bytes that are looked for: fewer are found everywhere.
const minEcho = 6

// spellings are those of the secret, and of what is sent for it, that an
// upstream may show.
func spellings(sent ...[]byte) []Secret {
	var all []string
	for _, b := range sent {
		all = append(all, string(b), base64.StdEncoding.EncodeToString(b), base64.RawStdEncoding.EncodeToString(b),
			base64.URLEncoding.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b),
			url.QueryEscape(string(b)), url.PathEscape(string(b)), lowerEscapes(url.QueryEscape(string(b))), lowerEscapes(url.PathEscape(string(b))),
			fetch.EncodeForm([]fetch.Param{{Value: string(b)}})[len("="):], hex.EncodeToString(b))
	}
	all = slices.DeleteFunc(all, func(s string) bool { return len(s) < minEcho })
	for i, s := range all {
		all[i] = string(lowered([]byte(s)))
	}
	slices.SortFunc(all, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	var list []Secret
	for _, s := range slices.Compact(all) {
		list = append(list, NewSecret([]byte(s)))
	}
	return list
}

// lowerEscapes writes the digits of percent-encoding as other libraries do.
func lowerEscapes(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:i+3], bytes.ToLower(b[i+1:i+3]))
			i += 2
		}
	}
	return string(b)
}

// Redact implements fetch.Proof.
func (p *proof) Redact(b []byte) []byte {
	if len(p.echoes) == 0 {
		return b
	}
	low := lowered(b)
	for _, echo := range p.echoes {
		if bytes.Contains(low, echo.bytes()) {
			b = without(b, low, echo.bytes())
			low = lowered(b)
		}
	}
	return b
}

// without returns b with what is shown of a secret for each echo in low, which is
// b in lower case.
func without(b, low, echo []byte) []byte {
	var clean []byte
	for {
		at := bytes.Index(low, echo)
		if at < 0 {
			return append(clean, b...)
		}
		clean = append(append(clean, b[:at]...), hidden...)
		b, low = b[at+len(echo):], low[at+len(echo):]
	}
}

// lowered returns b with the letters of ASCII in lower case, so that no byte
// moves.
func lowered(b []byte) []byte {
	low := make([]byte, len(b))
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		low[i] = c
	}
	return low
}

// IsShown implements fetch.Proof.
func (p *proof) IsShown(text string) bool {
	low := lowered([]byte(text))
	return slices.ContainsFunc(p.echoes, func(echo Secret) bool { return bytes.Contains(low, echo.bytes()) })
}

// Strip implements fetch.Proof.
func (p *proof) Strip(d fetch.Destination) fetch.Destination {
	path, query, found := strings.Cut(d.Target, "?")
	if p.place.Param == "" || !found {
		return d
	}
	parts := strings.Split(query, "&")
	kept := slices.DeleteFunc(slices.Clone(parts), p.isOwn)
	if len(kept) == len(parts) {
		return d
	}
	d.Target = path
	if len(kept) > 0 {
		d.Target += "?" + strings.Join(kept, "&")
	}
	return d
}

// isOwn tells whether a part of a query is what Apply writes, in any encoding.
func (p *proof) isOwn(part string) bool {
	name, value, _ := strings.Cut(part, "=")
	decodedName, err := url.QueryUnescape(name)
	decodedValue, err2 := url.QueryUnescape(value)
	return err == nil && err2 == nil && decodedName == p.place.Param && decodedValue == string(p.value.bytes())
}

// HasParam tells whether a query has a parameter of that name, in any encoding.
// Old servers also take ';' for what stands between two.
func HasParam(query, name string) bool {
	for part := range strings.FieldsFuncSeq(query, func(r rune) bool { return r == '&' || r == ';' }) {
		written, _, _ := strings.Cut(part, "=")
		if decoded, err := url.QueryUnescape(written); err == nil && decoded == name {
			return true
		}
	}
	return false
}
