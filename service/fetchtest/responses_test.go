package fetchtest_test

import (
	"io"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetchtest"
)

func TestResponseCases(t *testing.T) {
	cases := fetchtest.ResponseCases(t)
	seen := make(map[string]bool)
	verdicts := make(map[fetchtest.Verdict]int)
	for _, c := range cases {
		if seen[c.ID] || c.Source == "" || len(c.Raw) == 0 {
			t.Errorf("case %q is doubled or not whole", c.ID)
		}
		seen[c.ID] = true
		verdicts[c.Verdict]++
	}
	want := map[fetchtest.Verdict]int{
		fetchtest.VerdictAccept: 83, fetchtest.VerdictAcceptFirst: 2,
		fetchtest.VerdictReject: 160, fetchtest.VerdictRejectBody: 4,
	}
	if len(verdicts) != len(want) {
		t.Errorf("the verdicts are %v", verdicts)
	}
	for verdict, n := range want {
		if verdicts[verdict] != n {
			t.Errorf("%d cases have verdict %s, want %d", verdicts[verdict], verdict, n)
		}
	}
	first := cases[0]
	if first.Status == nil || *first.Status != 200 || first.Body == nil || *first.Body != "hello world" {
		t.Errorf("the first case is %+v", first)
	}
}

func TestResponseCasesArriveAsTheyAre(t *testing.T) {
	for _, c := range fetchtest.ResponseCases(t) {
		u := fetchtest.NewScript(t, fetchtest.Listen{}, fetchtest.Request(), fetchtest.Write(string(c.Raw)))
		conn := dial(t, u, nil)
		send(t, conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if got, err := io.ReadAll(conn); string(got) != string(c.Raw) || err != nil {
			t.Errorf("%s: got %q, %v", c.ID, got, err)
		}
		conn.Close()
	}
}
