package policy_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
	"github.com/fetchgate/fetchgate/service/policy"
)

// someRules are rules for one origin that differ in all that they are found by.
func someRules(random *rand.Rand, n int) []*configv1.Rule {
	pick := func(from []string, most int) []string {
		random.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
		return slices.Clone(from[:random.IntN(min(most, len(from))+1)])
	}
	numbered := func(word string, n int) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprintf("%s%d", word, i))
		}
		return all
	}
	rules := make([]*configv1.Rule, n)
	for i := range rules {
		r := &configv1.Rule{Name: fmt.Sprintf("r%d", i), Origins: []string{"https://api.example.com"}}
		if random.IntN(8) == 0 {
			r.Action = "deny"
		}
		r.Callers = pick(numbered("caller", 20), []int{1, 1, 2, 20}[random.IntN(4)])
		r.Methods = pick([]string{"GET", "PUT", "POST", "PATCH", "DELETE", "M1", "M2", "M3", "M4", "M5"}, []int{0, 1, 2, 10}[random.IntN(4)])
		r.Headers = pick([]string{"X-Team", "x-env", "X-A", "X_B"}, 2)
		r.Query = map[string]string{}
		for _, name := range pick([]string{"page", "q r", "kind", "ö"}, 2) {
			r.Query[name] = []string{"*", "1", "2", "a;b", "a b", "ä"}[random.IntN(6)]
		}
		if random.IntN(3) == 0 {
			r.Paths = []string{"/v1/*"}
		}
		rules[i] = r
	}
	return rules
}

// someAsk is a question about that origin.
func someAsk(t *testing.T, random *rand.Rand) policy.Ask {
	one := func(words ...string) string { return words[random.IntN(len(words))] }
	var query []string
	for range random.IntN(4) {
		query = append(query, one("page", "q+r", "q%20r", "kind", "%6bind", "%C3%B6", "other")+one("", "=")+one("", "1", "2", "%31", "a;b", "a%3bb", "a+b", "*", "%C3%A4", "1;page=2;kind=1"))
	}
	a := policy.Ask{
		Caller: fetch.Caller{Name: fmt.Sprintf("caller%d", random.IntN(22))},
		Method: one("GET", "PUT", "POST", "M1", "M5", "OTHER"), Verbatim: true,
		Destination: parseURL(t, "https://api.example.com"+one("/v1/x", "/", "/v2")+"?"+strings.Join(query, "&")),
	}
	for _, name := range []string{"x-team", "X-Env", "X-A", "x_b"} {
		if random.IntN(2) == 0 {
			a.Fields = append(a.Fields, fetch.Field{Name: name})
		}
	}
	return a
}

// TestManyRulesDecideAsEachAlone: how rules are found makes no difference to which
// of them decides.
func TestManyRulesDecideAsEachAlone(t *testing.T) {
	decided := map[string]bool{}
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 0))
		rules := someRules(random, 60)
		all := compile(t, rules, reviewed)
		alone := make([]*policy.Policy, len(rules))
		for i, r := range rules {
			list := []*configv1.Rule{r}
			if r.GetAction() == "deny" {
				list = append(list, &configv1.Rule{Name: "all", Origins: []string{"https://*"}})
			}
			alone[i] = compile(t, list, reviewed)
		}
		for range 100 {
			ask := someAsk(t, random)
			want := ""
			for _, action := range []string{"deny", ""} {
				for i, r := range rules {
					if r.GetAction() == action && want == "" && alone[i].Decide(ask).Rule == r.GetName() {
						want = r.GetName()
					}
				}
			}
			want = cmp.Or(want, policy.DefaultDeny)
			if got := all.Decide(ask).Rule; got != want {
				t.Errorf("seed %d, %+v: rule %s decides, want %s", seed, ask, got, want)
			}
			decided[fmt.Sprint(seed, want)] = true
		}
	}
	if len(decided) < 500 {
		t.Errorf("only %d rules decided", len(decided))
	}
}
