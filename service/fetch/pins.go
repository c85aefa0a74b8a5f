package fetch

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strings"
)

// Pins are SHA-256 digests of SubjectPublicKeyInfo (RFC 7469 section 2.4), of
// which a verified chain must have one. Pins of the same keys are equal. Empty
// means that every verified chain will do.
type Pins string // of 32 bytes each, in order, each once

// NewPins returns the pins with these digests.
func NewPins(digests [][sha256.Size]byte) Pins {
	digests = slices.Clone(digests)
	slices.SortFunc(digests, func(a, b [sha256.Size]byte) int { return bytes.Compare(a[:], b[:]) })
	var all strings.Builder
	for _, digest := range slices.Compact(digests) {
		all.Write(digest[:])
	}
	return Pins(all.String())
}

// Has reports whether digest is among them.
func (p Pins) Has(digest [sha256.Size]byte) bool {
	for ; len(p) >= sha256.Size; p = p[sha256.Size:] {
		if string(p[:sha256.Size]) == string(digest[:]) {
			return true
		}
	}
	return false
}

// With returns the settings for a hop whose rule names a profile: the profile's
// roots and pins where it has some, and the higher of the two versions. nil
// changes nothing.
func (t TLSSettings) With(profile *TLSSettings) TLSSettings {
	if profile == nil {
		return t
	}
	if profile.Roots != nil {
		t.Roots, t.RootsID = profile.Roots, profile.RootsID
	}
	if profile.Pins != "" {
		t.Pins = profile.Pins
	}
	t.MinVersion = max(t.MinVersion, profile.MinVersion)
	return t
}
