package body

import (
	"maps"
	"slices"
)

// CodingNames returns the names in the table of codings.
func CodingNames() []string { return slices.Sorted(maps.Keys(codings)) }

// MaxHold is how long bytes may wait while the sink is sending.
const MaxHold = maxHold
