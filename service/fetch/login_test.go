package fetch

import "testing"

func TestLogsInConnections(t *testing.T) {
	for value, want := range map[string]bool{
		"NTLM":                         true,
		"ntlm TlRMTVNTUAAB":            true,
		"Negotiate YII=":               true,
		"Basic realm=\"a\", Negotiate": true,
		"Basic realm=\"a\",\tNTLM":     true,
		"NTLM\tTlRMTVNTUAAB":           true,
		"":                             false,
		"Basic bnRsbTo=":               false,
		"Bearer NTLM":                  false,
		"NTLMv2 a":                     false,
		"Digest realm=\"ntlm\"":        false,
	} {
		if got := LogsInConnections([]byte(value)); got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
	fields := []Field{{Name: "WWW-AUTHENTICATE", Value: []byte("Basic")}, {Name: "www-authenticate", Value: []byte("Negotiate")}}
	if !HasLogin(fields, "WWW-Authenticate") || HasLogin(fields[:1], "WWW-Authenticate") || HasLogin(fields, "Authorization") {
		t.Error("the wrong fields are looked at")
	}
}
