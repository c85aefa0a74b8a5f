package service_test

import (
	"fmt"
	"testing"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// TestLoginsStayApart: a connection that a request logs in serves no other caller,
// however the request brings its login along.
func TestLoginsStayApart(t *testing.T) {
	inline := func(prefix, key string) []*fetchgatev1.Credential {
		return []*fetchgatev1.Credential{apiKey(&fetchgatev1.ApiKeyCredential{
			Place: &fetchgatev1.ApiKeyCredential_Header{Header: "authorization"}, Prefix: prefix, Key: []byte(key),
		})}
	}
	for name, login := range map[string]func(m *request, caller string){
		"a field":               func(m *request, caller string) { m.Request.Headers = headers("Authorization", "NTLM "+caller) },
		"a field, with a tab":   func(m *request, caller string) { m.Request.Headers = headers("Authorization", "NTLM\t"+caller) },
		"an inline credential":  func(m *request, caller string) { m.Options.Credentials = inline("Negotiate ", caller) },
		"a whole inline secret": func(m *request, caller string) { m.Options.Credentials = inline("", "NTLM "+caller) },
	} {
		t.Run(name, func(t *testing.T) {
			authority := fetchtest.NewAuthority(t)
			u := fetchtest.NewServer(t, identifying(), authority)
			g := fetchtest.Start(t, fetchtest.Options{DNS: insideDNS(t), Trust: authority, Extra: callersAnd(
				fmt.Sprintf("{name: shared, origins: [%q], dangerous_allow_loopback: true}", u.URLOf(insideHost, "")))})
			fetch := func(caller string, change func(*request, string)) string {
				m := get(u.URLOf(insideHost, "/"))
				m.Options = &fetchgatev1.FetchOptions{}
				change(m, caller)
				a, err := whole(as(t, caller), g, m)
				if err != nil || a.failure != nil {
					t.Fatal(gotten(a, err))
				}
				return string(a.body)
			}
			first, other := fetch("a", login), fetch("b", func(*request, string) {})
			if first == "" || other != "" {
				t.Errorf("a, who logs in, was answered as %q, then b, who does not, as %q", first, other)
			}
		})
	}
}
