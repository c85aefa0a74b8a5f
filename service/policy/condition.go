package policy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/checker"
	"cel.dev/cel-go/common/types"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// maxConditionCost is the most that one evaluation of a condition may cost, in
// the units of CEL: about one for each operation and ten bytes of text.
const maxConditionCost = 10_000

// maxDecisionCost is the most that all conditions of one decision may cost, by
// every reading of its path; minConditionCost is what each counts at least.
const (
	maxDecisionCost  = 200_000
	minConditionCost = 10
)

// smallCost is the most that a condition may cost whose cost is not counted: to
// count takes several times as long as to evaluate it.
const smallCost = 100

// hiddenFields are the fields whose values no condition sees.
var hiddenFields = []string{"Authorization", "Cookie", "Proxy-Authorization"}

// The most that a request can have, for an estimate of the cost of a condition.
const (
	maxTextBytes = 64 << 10
	maxItems     = 1000
)

// environment has what a condition can name.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	texts := cel.MapType(cel.StringType, cel.StringType)
	lists := cel.MapType(cel.StringType, cel.ListType(cel.StringType))
	return cel.NewEnv(
		cel.Variable("caller.name", cel.StringType),
		cel.Variable("caller.identity", cel.StringType),
		cel.Variable("caller.owner", cel.StringType),
		cel.Variable("request.method", cel.StringType),
		cel.Variable("request.scheme", cel.StringType),
		cel.Variable("request.host", cel.StringType),
		cel.Variable("request.port", cel.IntType),
		cel.Variable("request.path", cel.StringType),
		cel.Variable("request.query", lists),
		cel.Variable("request.headers", lists),
		cel.Variable("labels", texts),
	)
})

// condition is the `when` of rules, compiled.
type condition struct {
	program cel.Program
	// cost is the most that one evaluation can cost, where that is at most
	// smallCost; else it is counted, and this is 0.
	cost uint64
	// byPath and byQuery tell that it may look at the path, at the query.
	byPath, byQuery bool
}

// compileCondition reads an expression of the Common Expression Language that
// yields true or false.
func compileCondition(text string) (*condition, error) {
	env, err := environment()
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		first := issues.Errors()[0]
		return nil, fmt.Errorf("line %d, column %d: %s", first.Location.Line(), first.Location.Column()+1, first.Message+advise(text, first.Message))
	}
	if !ast.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("it yields %s; write a condition that is true or false", ast.OutputType())
	}
	cost, err := env.EstimateCost(ast, sizes{})
	if err != nil {
		return nil, err
	}
	if cost.Min > maxConditionCost {
		return nil, fmt.Errorf("one evaluation costs at least %d units, and %d are allowed; make it simpler", cost.Min, maxConditionCost)
	}
	c := &condition{byPath: strings.Contains(text, "path"), byQuery: strings.Contains(text, "query")}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if cost.Max <= smallCost {
		c.cost = max(minConditionCost, cost.Max)
	} else {
		options = append(options, cel.CostLimit(maxConditionCost))
	}
	if c.program, err = env.Program(ast, options...); err != nil {
		return nil, errors.New("it cannot be carried out: " + firstLine(err.Error()))
	}
	return c, nil
}

// known are the names that a condition can use, by what has them.
var known = map[string]string{
	"request": "method, scheme, host, port, path, query, headers",
	"caller":  "name, identity, owner",
}

var (
	memberName = regexp.MustCompile(`\b(request|caller)\s*\.\s*([A-Za-z_][A-Za-z0-9_]{0,63})`)
	listValue  = regexp.MustCompile(`(request\.(?:query|headers)(?:\[(?:"[^"]*"|'[^']*')\]|\.\w+))\s*([=!])=\s*("[^"]*"|'[^']*')`)
)

// advise says what to write instead, where what CEL says of a text does not.
func advise(text, said string) string {
	switch {
	case strings.HasPrefix(said, "undeclared reference to"):
		for _, m := range memberName.FindAllStringSubmatch(text, -1) {
			if names := known[m[1]]; strings.Contains(said, "'"+m[1]+"'") && !slices.Contains(strings.Split(names, ", "), m[2]) {
				return fmt.Sprintf("; %s has no %q; it has %s", m[1], m[2], names)
			}
		}
		return "; a condition has request (" + known["request"] + "), caller (" + known["caller"] + ") and labels"
	case strings.Contains(said, "'(list(string), string)'"):
		m := listValue.FindStringSubmatch(text)
		if m == nil || len(m[0]) > 200 {
			return `; it is a list, as parameters and header fields are: write "x" in request.query["a"]`
		}
		wanted := m[3] + " in " + m[1]
		if m[2] == "!" {
			wanted = "!(" + wanted + ")"
		}
		return "; it is a list: write " + wanted
	}
	return ""
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// sizes estimates how long what a condition names can be.
type sizes struct{}

func (sizes) EstimateSize(element checker.AstNode) *checker.SizeEstimate {
	if element.Type().Kind() == types.StringKind {
		return &checker.SizeEstimate{Max: maxTextBytes}
	}
	return &checker.SizeEstimate{Max: maxItems}
}

func (sizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}

// unclear says why a condition yielded nothing; zero means that it did. It never
// holds what was asked about.
type unclear uint8

const (
	isClear unclear = iota
	tooCostly
	tooManyCosts
	anError
	twoQueries
	// firstPlain is the first of plainErrors.
	firstPlain
)

// plainErrors are the errors of CEL that may be told, since they have nothing of
// the request in them.
var plainErrors = []string{"no such key", "no such attribute", "no such overload", "division by zero", "modulus by zero", "index out of bounds", "integer overflow", "type conversion error"}

func (u unclear) String() string {
	switch u {
	case isClear:
		return ""
	case tooCostly:
		return "it costs more than one evaluation may"
	case tooManyCosts:
		return "the conditions before it cost all that one decision may"
	case anError:
		return "it ended in an error"
	case twoQueries:
		return "servers that take ';' for '&' read a query that decides it otherwise"
	}
	return "it ended in an error (" + plainErrors[u-firstPlain] + ")"
}

// holds evaluates the condition, by every reading of the query. Where that fails,
// or they differ, why is set.
func (c *condition) holds(q *question) (holds bool, why unclear) {
	holds, why = c.evaluate(q, false)
	if why != isClear || !c.byQuery || !strings.Contains(q.ask.Destination.RawQuery(), ";") {
		return holds, why
	}
	other, why := c.evaluate(q, true)
	if why == isClear && other != holds {
		why = twoQueries
	}
	return holds && why == isClear, why
}

// evaluate is holds by one reading of the query.
func (c *condition) evaluate(q *question, wide bool) (holds bool, why unclear) {
	f := q.known()
	if f.wide != wide {
		f.wide, f.query = wide, nil
	}
	if f.spent >= maxDecisionCost {
		return false, tooManyCosts
	}
	f.path = q.path
	value, details, err := c.program.Eval(f)
	f.spent += c.cost
	if c.cost == 0 {
		f.spent += counted(details)
	}
	if err != nil {
		return false, whyUnclear(err.Error())
	}
	yes, isBool := value.Value().(bool)
	if !isBool {
		return false, anError
	}
	return yes, isClear
}

// counted is what an evaluation has cost.
func counted(details *cel.EvalDetails) uint64 {
	if cost := details.ActualCost(); cost != nil {
		return max(minConditionCost, *cost)
	}
	return minConditionCost
}

func whyUnclear(text string) unclear {
	if strings.Contains(text, "cost limit exceeded") {
		return tooCostly
	}
	for i, plain := range plainErrors {
		if strings.HasPrefix(text, plain) {
			return firstPlain + unclear(i)
		}
	}
	return anError
}

// facts are what conditions see, each made when it is asked for, once for all
// conditions and readings of the path.
type facts struct {
	ask            Ask
	path           string
	wide           bool // as pairs reads the query
	query, headers map[string][]string
	spent          uint64 // by the conditions of one decision
}

// known returns the facts of q.
func (q *question) known() *facts {
	if q.facts == nil {
		q.facts = &facts{ask: *q.ask}
	}
	return q.facts
}

// Parent implements cel.Activation: there is nothing around the facts.
func (*facts) Parent() cel.Activation { return nil }

// ResolveName implements cel.Activation.
func (f *facts) ResolveName(name string) (any, bool) {
	to := &f.ask.Destination
	switch name {
	case "caller.name":
		return f.ask.Caller.Name, true
	case "caller.identity":
		return f.ask.Caller.Identity, true
	case "caller.owner":
		return f.ask.Caller.Owner, true
	case "request.method":
		return f.ask.Method, true
	case "request.scheme":
		return to.Scheme, true
	case "request.host":
		return to.Host, true
	case "request.port":
		return int64(to.Port), true
	case "request.path":
		return f.path, true
	case "request.query":
		if f.query == nil {
			f.query = queryOf(to.RawQuery(), f.wide)
		}
		return f.query, true
	case "request.headers":
		if f.headers == nil {
			f.headers = headersOf(f.ask.Fields)
		}
		return f.headers, true
	case "labels":
		if f.ask.Labels == nil {
			return map[string]string{}, true
		}
		return f.ask.Labels, true
	}
	return nil, false
}

// queryOf returns the parameters of a query, decoded, each with its values in
// order.
func queryOf(query string, wide bool) map[string][]string {
	m := map[string][]string{}
	for name, value := range pairs(query, wide) {
		name = formText(name)
		m[name] = append(m[name], formText(value))
	}
	return m
}

// headersOf returns the fields by their names in lower case. Of hiddenFields
// there are the names alone.
func headersOf(fields []fetch.Field) map[string][]string {
	m := make(map[string][]string, len(fields))
	for _, f := range fields {
		name := strings.ToLower(f.Name)
		if isHidden(f.Name) {
			m[name] = []string{}
			continue
		}
		m[name] = append(m[name], string(f.Value))
	}
	return m
}

func isHidden(name string) bool {
	for _, hidden := range hiddenFields {
		if strings.EqualFold(name, hidden) {
			return true
		}
	}
	return false
}
