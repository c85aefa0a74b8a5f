package transport

import (
	"maps"
	"net/http"
	"slices"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// fields lists header, sorted by name, with names as the wire has them.
func fields(header http.Header, name func(string) string) []fetch.Field {
	list := make([]fetch.Field, 0, len(header))
	for _, key := range slices.Sorted(maps.Keys(header)) {
		for _, v := range header[key] {
			list = append(list, fetch.Field{Name: name(key), Value: []byte(v)})
		}
	}
	return list
}

// trailerFields lists a trailer section without what may not be in one
// (RFC 9110 section 6.5.1).
func trailerFields(trailer http.Header, name func(string) string) []fetch.Field {
	return withoutOwn(fields(trailer, name))
}

func withoutOwn(trailers []fetch.Field) []fetch.Field {
	return slices.DeleteFunc(trailers, func(f fetch.Field) bool { return isOwn(f.Name) })
}
