package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/file"
)

// maxAuditLine is the longest line of an audit record that is read; those of
// fetchgate are shorter.
const maxAuditLine = 64 << 10

// auditLine is what a replay needs of a line of the schema fetchgate.audit.v1.
type auditLine struct {
	Schema  int    `json:"schema"`
	Caller  string `json:"caller"`
	Method  string `json:"method"`
	Origin  string `json:"origin"`
	Path    string `json:"path"`
	Allowed bool   `json:"allowed"`
	Rule    string `json:"rule"`
	Reason  string `json:"reason"`
	Why     string `json:"why"`
	Remote  string `json:"remote_address"`
	Final   string `json:"final_origin"`

	Redacted []string `json:"redacted"`
}

// hasQuery tells that the URL had a query, whose values are not in the line.
func (l *auditLine) hasQuery() bool { return slices.Contains(l.Redacted, "query") }

// destination is where the request went. ok is false where the line does not say
// it all.
func (l *auditLine) destination() (to fetch.Destination, ok bool) {
	isCut := len(l.Path) > 3 && l.Path[len(l.Path)-3:] == "..."
	isPath := strings.HasPrefix(l.Path, "/") || l.Path == "*"
	if l.Origin == "" || l.Method == "" || l.Caller == "" || !isPath || isCut {
		return fetch.Destination{}, false
	}
	to, err := fetch.ParseURL(l.Origin)
	if err != nil {
		return fetch.Destination{}, false
	}
	to.Target = l.Path
	return to, true
}

// auditTrail is what was read of an audit record.
type auditTrail struct {
	lines int
	// cut tells that the last line has no end.
	cut bool
}

// readAudit gives each line of the record at path, "-" for in, to use. It holds
// one line at a time.
func readAudit(path string, in io.Reader, use func(*auditLine)) (auditTrail, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return auditTrail{}, fmt.Errorf("%s: %w", path, file.Cause(err))
		}
		defer f.Close()
		in = f
	}
	var trail auditTrail
	reader := bufio.NewReaderSize(in, maxAuditLine)
	for {
		text, err := reader.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return trail, fmt.Errorf("%s:%d: the line is longer than any of an audit record", path, trail.lines+1)
		case err != nil && !errors.Is(err, io.EOF):
			return trail, fmt.Errorf("%s: %w", path, file.Cause(err))
		}
		isLast := err != nil
		if len(bytes.TrimSpace(text)) > 0 {
			var l auditLine
			wrong := json.Unmarshal(text, &l)
			switch {
			case wrong != nil && isLast:
				trail.cut = true
				return trail, nil
			case wrong != nil || l.Schema != 1:
				return trail, fmt.Errorf("%s:%d: it is no line of the schema fetchgate.audit.v1", path, trail.lines+1)
			}
			trail.lines++
			use(&l)
		}
		if isLast {
			return trail, nil
		}
	}
}

// auditProblem is the problem of a record that cannot be read.
func auditProblem(err error) error {
	return &problem{exitUsage, "cannot read the audit record", err.Error(), "name a file that audit.sink wrote, lines of JSON alone, or - for standard input"}
}
