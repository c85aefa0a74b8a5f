package config

import "strings"

// place is where something stands in a file, counted from 1.
type place struct{ line, column int }

// problem returns a problem of the setting at path, which stands here.
func (p place) problem(path, message string) Problem {
	return Problem{Line: p.line, Column: p.column, Path: path, Message: message}
}

// places is where each setting of a file is written, by path. The path of the
// file's top is empty.
type places map[string]place

// find returns the place of path, or of the nearest setting around it.
func (p places) find(path string) place {
	for path != "" {
		if at, ok := p[path]; ok {
			return at
		}
		path = around(path)
	}
	return p[""]
}

// around returns the path without its last part: of `rules[0].query["a"]` it
// is "rules[0].query", then "rules[0]", "rules" and "".
func around(path string) string {
	end := strings.LastIndexByte(path, '.')
	switch {
	case strings.HasSuffix(path, `"]`): // a quote inside of the key is escaped
		end = strings.LastIndex(path, `["`)
	case strings.HasSuffix(path, "]"):
		end = strings.LastIndexByte(path, '[')
	}
	return path[:max(end, 0)]
}
