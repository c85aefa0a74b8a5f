package iana

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// Block is one address block of a special-purpose registry.
type Block struct {
	Prefix netip.Prefix
	Name   string // as IANA writes it
	// Global is whether IANA says that the block is globally reachable. It is
	// false also where IANA says neither: N/A, or empty in a terminated row.
	Global bool
}

// ReadRegistry reads a special-purpose registry in the CSV form that IANA
// publishes. A row that lists several blocks yields several, in their order.
//
// It fails rather than skip or guess: a missing column, an empty registry, a
// block that is no prefix, or a Globally Reachable that is none of True, False,
// N/A and empty is an error that names the line.
func ReadRegistry(r io.Reader) ([]Block, error) {
	in := csv.NewReader(r)
	header, err := in.Read()
	if err != nil {
		return nil, fmt.Errorf("registry header: %w", err)
	}
	var columns [3]int
	for i, name := range []string{"Address Block", "Name", "Globally Reachable"} {
		if columns[i] = slices.Index(header, name); columns[i] < 0 {
			return nil, fmt.Errorf("registry header: no column %q", name)
		}
	}
	var blocks []Block
	for {
		row, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("registry: %w", err)
		}
		found, err := readRow(row[columns[0]], row[columns[1]], row[columns[2]])
		if err != nil {
			line, _ := in.FieldPos(0)
			return nil, fmt.Errorf("registry line %d: %w", line, err)
		}
		blocks = append(blocks, found...)
	}
	if len(blocks) == 0 {
		return nil, errors.New("registry: no address block")
	}
	return blocks, nil
}

func readRow(prefixes, name, reachable string) ([]Block, error) {
	global, err := readReachable(reachable)
	if err != nil {
		return nil, err
	}
	var blocks []Block
	for text := range strings.SplitSeq(prefixes, ",") {
		p, err := netip.ParsePrefix(withoutFootnote(text))
		if err != nil {
			return nil, fmt.Errorf("address block: %w", err)
		}
		if p != p.Masked() {
			return nil, fmt.Errorf("address block %v: bits are set beyond the length", p)
		}
		blocks = append(blocks, Block{Prefix: p, Name: name, Global: global})
	}
	return blocks, nil
}

func readReachable(text string) (bool, error) {
	switch withoutFootnote(text) {
	case "True":
		return true, nil
	case "False", "N/A", "":
		return false, nil
	}
	return false, fmt.Errorf("column Globally Reachable has %q, not True, False or N/A", text)
}

// withoutFootnote returns the value of a cell without a mark such as " [2]".
func withoutFootnote(cell string) string {
	value, _, _ := strings.Cut(cell, "[")
	return strings.TrimSpace(value)
}
