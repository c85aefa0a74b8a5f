// Package configproto has the text of config.proto, whose comments say what each
// setting is: generated code does not keep them.
package configproto

import _ "embed"

// Source is the file config.proto.
//
//go:embed config.proto
var Source string
