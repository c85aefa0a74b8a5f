package main

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	csv4 = "/iana-ipv4-special-registry/iana-ipv4-special-registry-1.csv"
	csv6 = "/iana-ipv6-special-registry/iana-ipv6-special-registry-1.csv"
	xml4 = "/iana-ipv4-special-registry/iana-ipv4-special-registry.xml"
	xml6 = "/iana-ipv6-special-registry/iana-ipv6-special-registry.xml"
)

const committed = "../../data"

func read(t *testing.T, folder, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// form is a registry's XML as IANA writes it, with the dates of its records.
func form(updated string) string {
	return fmt.Sprintf(`<?xml version='1.0' encoding='UTF-8'?>
<registry xmlns="http://www.iana.org/assignments" id="r"><title>T</title><created>2006-01-10</created>
<updated>%s</updated><registry id="r-1"><record updated="2001-01-01"><updated>2002-02-02</updated></record></registry></registry>`, updated)
}

// published is what an IANA that has the committed data serves.
func published(t *testing.T) map[string]string {
	t.Helper()
	dates := regexp.MustCompile(`last updated: (\S+)`).FindAllStringSubmatch(read(t, committed, "SOURCE"), -1)
	if len(dates) != 2 {
		t.Fatalf("SOURCE has %d dates, want one for each registry", len(dates))
	}
	return map[string]string{
		csv4: read(t, committed, filepath.Base(csv4)),
		csv6: read(t, committed, filepath.Base(csv6)),
		xml4: form(dates[0][1]),
		xml6: form(dates[1][1]),
	}
}

// run renews an empty folder from a server with the given pages.
func run(t *testing.T, pages map[string]string) (folder string, err error) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if to, ok := strings.CutPrefix(pages[r.URL.Path], "redirect: "); ok {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		page, ok := pages[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(page))
	}))
	defer server.Close()
	folder = t.TempDir()
	return folder, renew(t.Context(), newClient(), server.URL+"/", folder)
}

// TestCommittedData also shows that nobody edited the committed files by hand.
func TestCommittedData(t *testing.T) {
	folder, err := run(t, published(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{filepath.Base(csv4), filepath.Base(csv6), "SOURCE"} {
		if got, want := read(t, folder, file), read(t, committed, file); got != want {
			t.Errorf("%s would be renewed to\n%s\nbut is\n%s", file, got, want)
		}
	}
}

func TestRenewTakesAChange(t *testing.T) {
	pages := published(t)
	pages[csv6] += "4000::/16,New,[RFC9999],2027-01,N/A,True,True,True,False,False\r\n"
	pages[xml4], pages[xml6] = form("2027-01-30"), form("2027-01-31")
	folder, err := run(t, pages)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, folder, filepath.Base(csv6)); got != pages[csv6] {
		t.Error("the new row did not arrive byte for byte")
	}
	text := read(t, folder, "SOURCE")
	if !strings.Contains(text, "last updated: 2027-01-30") || !strings.Contains(text, "last updated: 2027-01-31") {
		t.Errorf("SOURCE has the wrong dates:\n%s", text)
	}
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) != 3 {
		t.Errorf("%v left behind, %v", entries, err)
	}
}

func TestRenewWritesNothingUnlessAllIsWell(t *testing.T) {
	good := published(t)
	for name, test := range map[string]struct{ page, text, why string }{
		"missing":           {csv6, "", "404"},
		"moved":             {csv6, "redirect: " + csv4, "status 302"},
		"an HTML page":      {csv6, "<!doctype html><title>Moved</title>", "no column"},
		"the other family":  {csv6, good[csv4], "0.0.0.0/8 is of the other address family"},
		"cut at a row":      {csv6, good[csv6][:strings.Index(good[csv6], "fc00::/7")], "does not list fc00::/7"},
		"cut inside a row":  {csv4, good[csv4][:300], "wrong number of fields"},
		"private is global": {csv4, strings.Replace(good[csv4], "1996-02,N/A,True,True,True,False", "1996-02,N/A,True,True,True,True", 1), "does not list 10.0.0.0/8"},
		"too long":          {csv6, good[csv6] + strings.Repeat(" ", maxFile), "more than 1048576 bytes"},
		"no date":           {xml6, form(""), "date of the last update"},
		"not XML":           {xml4, "updated 2025-10-09", "date of the last update"},
		"date missing":      {xml4, "", "404"},
	} {
		t.Run(name, func(t *testing.T) {
			pages := maps.Clone(good)
			if pages[test.page] = test.text; test.text == "" {
				delete(pages, test.page)
			}
			folder, err := run(t, pages)
			if err == nil || !strings.Contains(err.Error(), test.why) || !strings.HasPrefix(err.Error(), "iana-ipv") {
				t.Errorf("%v, want an error that names the registry and says %q", err, test.why)
			}
			if entries, _ := os.ReadDir(folder); len(entries) != 0 {
				t.Errorf("wrote %v", entries)
			}
		})
	}
}

func TestReplaceNeedsTheFolder(t *testing.T) {
	if err := replace(filepath.Join(t.TempDir(), "missing", "SOURCE"), nil); err == nil {
		t.Error("wrote into a folder that does not exist")
	}
}

func FuzzLastUpdated(f *testing.F) {
	f.Add(form("2025-10-09"))
	f.Add("<registry><updated>0000-00-00</updated></registry>")
	f.Fuzz(func(t *testing.T, text string) {
		updated, err := lastUpdated([]byte(text))
		if day := updated.Truncate(24 * time.Hour); err == nil && (day != updated || updated.Year() > 9999) {
			t.Errorf("%v out of %q is no date", updated, text)
		}
	})
}
