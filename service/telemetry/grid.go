package telemetry

import "sync/atomic"

// The label values for what has no name of its own in a label, and for what is
// not there.
const (
	other = "other"
	none  = "none"
)

// vocabulary is the closed list of values that one label has. A value is known
// by its place, so that the handles of metrics lie in arrays.
type vocabulary struct {
	values []string
	places map[string]int
	rest   int
}

// newVocabulary has the values given, each once, and other.
func newVocabulary(values ...string) vocabulary {
	v := vocabulary{places: make(map[string]int, len(values)+1)}
	for _, value := range values {
		v.add(value)
	}
	v.rest = v.add(other)
	return v
}

func (v *vocabulary) add(value string) int {
	if place, known := v.places[value]; known {
		return place
	}
	v.places[value] = len(v.values)
	v.values = append(v.values, value)
	return len(v.values) - 1
}

// place returns where value is, or where other is.
func (v *vocabulary) place(value string) int {
	if place, known := v.places[value]; known {
		return place
	}
	return v.rest
}

// grid holds the handles of a metric whose labels have vocabularies. A handle
// is made when it is first used, so that /metrics shows only what happened and
// counting needs no look-up by labels, which costs ten times as much.
type grid[M any] struct {
	labels  []vocabulary
	handles []atomic.Pointer[M]
	resolve func(values ...string) M
}

// newGrid makes the grid of a metric; resolve is its WithLabelValues, and labels
// are in its order.
func newGrid[M any](resolve func(values ...string) M, labels ...vocabulary) *grid[M] {
	size := 1
	for _, v := range labels {
		size *= len(v.values)
	}
	return &grid[M]{labels: labels, handles: make([]atomic.Pointer[M], size), resolve: resolve}
}

// at returns the handle for the values at places, one for each label.
func (g *grid[M]) at(places ...int) M {
	cell := 0
	for i, place := range places {
		cell = cell*len(g.labels[i].values) + place
	}
	if handle := g.handles[cell].Load(); handle != nil {
		return *handle
	}
	return g.make(cell)
}

// make resolves the handle of a cell. Two callers at once get the same one.
func (g *grid[M]) make(cell int) M {
	values := make([]string, len(g.labels))
	for i, rest := len(values)-1, cell; i >= 0; i-- {
		n := len(g.labels[i].values)
		values[i], rest = g.labels[i].values[rest%n], rest/n
	}
	handle := g.resolve(values...)
	g.handles[cell].Store(&handle)
	return handle
}
