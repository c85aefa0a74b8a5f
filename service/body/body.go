// Package body encodes request bodies, decodes and bounds response bodies.
package body

import "github.com/fetchgate/fetchgate/service/fetch"

// Encoded is a request body and the media type it has by being what it is.
type Encoded struct {
	// Source can be opened any number of times, and its length is known.
	Source fetch.Source
	// ContentType is the Content-Type to send when the caller gives none.
	ContentType string
}
