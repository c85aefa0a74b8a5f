package fetch

import (
	"bytes"
	"slices"
)

// LogsInConnections tells that a value of Authorization or WWW-Authenticate has
// a scheme by which an upstream knows who is on a connection, not who a request
// is from: NTLM or Negotiate (RFC 4559 section 6). What comes on the connection
// later is then taken for the same user's.
func LogsInConnections(value []byte) bool {
	for part := range bytes.SplitSeq(value, []byte(",")) {
		scheme := bytes.TrimLeft(part, " \t")
		if end := bytes.IndexAny(scheme, " \t"); end >= 0 { // some servers take a tab for a space
			scheme = scheme[:end]
		}
		if EqualFold(scheme, "NTLM") || EqualFold(scheme, "Negotiate") {
			return true
		}
	}
	return false
}

// HasLogin tells that one of the fields called name logs in a connection.
func HasLogin(fields []Field, name string) bool {
	return slices.ContainsFunc(fields, func(f Field) bool {
		return EqualFold([]byte(f.Name), name) && LogsInConnections(f.Value)
	})
}
