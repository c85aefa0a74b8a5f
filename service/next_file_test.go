package service_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/fetchtest"
)

// TestNextFileThatIsNotThere: the log names it, the page and the metric count it,
// without any fetch, until it is there.
func TestNextFileThatIsNotThere(t *testing.T) {
	authority := fetchtest.NewAuthority(t)
	u := secureRecorder(t, authority, nil)
	v := newVault(t)
	v.bearer("token", "cnrytoken", boundTo("", u))
	w := vaulted(t, v, authority, "", u)
	const metric, line = "fetchgate_credential_next_files_absent", "\nnext_files_absent: 1\n"
	page := func() string {
		t.Helper()
		_, text, err := w.get("/readyz?verbose")
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	name := filepath.Join(v.dir, "token.next")
	if text := w.text.String(); strings.Count(text, "next_file of a credential is not there") != 1 || !strings.Contains(text, name) {
		t.Errorf("the log says\n%s", text)
	}
	if text := page(); w.metric(t, metric) != 1 || !strings.Contains(text, line) || strings.Contains(text, "token") {
		t.Errorf("the metric is %v, the page says\n%s", w.metric(t, metric), text)
	}
	v.put("token.next", "cnrysecond")
	eventually(t, func() error { // within a second
		if text := page(); strings.Contains(text, line) {
			return errors.New("it is not seen")
		}
		return nil
	})
	if got := w.metric(t, metric); got != 0 {
		t.Errorf("the metric is %v", got)
	}
	w.check(t, nil)
}
