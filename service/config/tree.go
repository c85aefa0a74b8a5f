package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxDepth is how deep a tree may be; the schema needs less than ten levels.
const maxDepth = 32

// readTree returns the top of the only YAML document in text, a mapping with
// at least one key. No node of it is an alias, has an anchor or a tag of its
// own, or lies deeper than maxDepth.
func readTree(text []byte) (*yaml.Node, *Problem) {
	if problem := checkText(text); problem != nil {
		return nil, problem
	}
	var document, second yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	err := decoder.Decode(&document)
	if err == io.EOF {
		return nil, emptyFile()
	}
	if err != nil {
		return nil, syntax(text, err)
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		return nil, &Problem{Line: second.Line, Column: second.Column, Message: "begins a second YAML document; keep only one in the file"}
	case err != io.EOF:
		return nil, syntax(text, err)
	}
	root := document.Content[0]
	if problem := checkPlain(root, 1); problem != nil {
		return nil, problem
	}
	switch {
	case isNull(root) || root.Kind == yaml.MappingNode && len(root.Content) == 0:
		return nil, emptyFile()
	case root.Kind != yaml.MappingNode:
		return nil, refuseNode(root, `is not a mapping; write settings such as "limits:" at the left edge`)
	}
	return root, nil
}

func emptyFile() *Problem {
	return &Problem{Message: "is empty; remove --config for the built-in default, or write at least one setting"}
}

// checkPlain refuses the YAML that lets a value stand elsewhere than where it
// is used, or be another type than it looks. Every alias has its anchor above
// it, so that there is none in what passes.
func checkPlain(n *yaml.Node, depth int) *Problem {
	switch {
	case depth > maxDepth:
		return refuseNode(n, fmt.Sprintf("is nested deeper than %d levels; check the indentation and the brackets", maxDepth))
	case n.Anchor != "":
		return refuseNode(n, "has a YAML anchor (&), which is not taken here; write the value out where it is used")
	case n.Style&yaml.TaggedStyle != 0:
		return refuseNode(n, "has a YAML tag (!), which is not taken here; write the value alone, in quotes if it begins with !")
	}
	for _, child := range n.Content {
		if problem := checkPlain(child, depth+1); problem != nil {
			return problem
		}
	}
	return nil
}

func refuseNode(n *yaml.Node, message string) *Problem {
	return &Problem{Line: n.Line, Column: n.Column, Message: message}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// syntax tells where the parser stopped reading. The line in its own message
// is often that of the mapping around the fault, or missing.
func syntax(text []byte, err error) *Problem {
	reader := &slowReader{text: text}
	decoder := yaml.NewDecoder(reader)
	for again := error(nil); again == nil; {
		again = decoder.Decode(new(yaml.Node))
	}
	line, column := lastWritten(text[:reader.read])
	return &Problem{Line: line, Column: column, Message: fmt.Sprintf(
		"is not YAML, here or a little above: %s; check indentation, quotes, brackets and colons", plainSyntax(err))}
}

// plainSyntax returns the parser's sentence without its name and line.
func plainSyntax(err error) string {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	var line int
	if n, _ := fmt.Sscanf(message, "line %d:", &line); n == 1 {
		_, message, _ = strings.Cut(message, ": ")
	}
	return message
}

// lastWritten returns the last line that holds more than a comment, and the
// column at which it begins.
func lastWritten(text []byte) (line, column int) {
	number := 0
	line, column = 1, 1
	for l := range bytes.SplitSeq(text, []byte("\n")) {
		number++
		written := bytes.TrimLeft(l, " ")
		if len(bytes.TrimSpace(written)) > 0 && written[0] != '#' {
			line, column = number, len(l)-len(written)+1
		}
	}
	return line, column
}

// slowReader gives one byte at a time, so that read is about where its reader is.
type slowReader struct {
	text []byte
	read int
}

// Read is an io.Reader.
func (r *slowReader) Read(b []byte) (int, error) {
	if r.read == len(r.text) {
		return 0, io.EOF
	}
	if len(b) == 0 {
		return 0, errors.New("no room for a byte")
	}
	b[0] = r.text[r.read]
	r.read++
	return 1, nil
}
