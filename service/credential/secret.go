package credential

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
)

// hidden is what is shown of a secret.
const hidden = "[redacted]"

// Secret is bytes that are not printed: not by a verb of fmt, not by log/slog,
// not by an encoder. The zero value is empty.
type Secret struct {
	// A printer that goes into structs sees an address: fmt calls no method of a
	// field that is not exported, and can follow a pointer.
	get func() []byte
}

// NewSecret returns a secret with a copy of b.
func NewSecret(b []byte) Secret {
	own := append([]byte(nil), b...)
	return Secret{func() []byte { return own }}
}

// bytes are not to be changed.
func (s Secret) bytes() []byte {
	if s.get == nil {
		return nil
	}
	return s.get()
}

// equal tells whether two secrets are the same.
func (s Secret) equal(other Secret) bool { return string(s.bytes()) == string(other.bytes()) }

// String shows nothing.
func (Secret) String() string { return hidden }

// GoString shows nothing.
func (Secret) GoString() string { return hidden }

// Format shows nothing, for every verb.
func (Secret) Format(s fmt.State, _ rune) { fmt.Fprint(s, hidden) }

// LogValue shows nothing.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalJSON shows nothing.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }

// MarshalText shows nothing.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalBinary shows nothing.
func (Secret) MarshalBinary() ([]byte, error) { return []byte(hidden), nil }

var (
	_ fmt.Formatter            = Secret{}
	_ slog.LogValuer           = Secret{}
	_ json.Marshaler           = Secret{}
	_ encoding.TextMarshaler   = Secret{}
	_ encoding.BinaryMarshaler = Secret{}
)

// maxSecretBytes is the longest secret.
const maxSecretBytes = 16 << 10

// checkSecret refuses what cannot be a secret: what is empty or too long, and
// what has a control character. Its error does not show it.
func checkSecret(b []byte) error {
	switch {
	case len(b) == 0:
		return errors.New("is empty; a secret has at least one byte")
	case len(b) > maxSecretBytes:
		return fmt.Errorf("has %d bytes; a secret has at most %d", len(b), maxSecretBytes)
	}
	return checkControls(b)
}

func checkControls(b []byte) error {
	for i, c := range b {
		if c < ' ' || c == 0x7f {
			return fmt.Errorf("has the control character %#02x at byte %d", c, i)
		}
	}
	return nil
}
