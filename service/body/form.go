package body

import "github.com/fetchgate/fetchgate/service/fetch"

// Form is fields, in their order, encoded as query parameters are: see
// fetch.EncodeForm. The strings are taken as UTF-8. No field makes an empty
// body.
func Form(fields []fetch.Param) Encoded {
	return Encoded{Source: Raw([]byte(fetch.EncodeForm(fields))), ContentType: "application/x-www-form-urlencoded"}
}
