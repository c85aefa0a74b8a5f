package body

import (
	"net/url"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// Form is fields, in their order, as application/x-www-form-urlencoded in the
// variant that Python's urlencode writes and query parameters have here: a
// space becomes '+', letters, digits and "-._~" stay, every other byte is
// percent-encoded. The strings are taken as UTF-8. No field makes an empty body.
func Form(fields []fetch.Param) Encoded {
	var b []byte
	for i, f := range fields {
		if i > 0 {
			b = append(b, '&')
		}
		b = append(b, url.QueryEscape(f.Name)...)
		b = append(b, '=')
		b = append(b, url.QueryEscape(f.Value)...)
	}
	return Encoded{Source: Raw(b), ContentType: "application/x-www-form-urlencoded"}
}
