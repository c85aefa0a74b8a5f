package iana_test

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/iana"
)

const header = "Address Block,Name,RFC,Globally Reachable\n"

func TestReadRegistry(t *testing.T) {
	got, err := iana.ReadRegistry(strings.NewReader(header +
		"192.0.0.0/24 [2],Protocol,\"[RFC1]\n        [RFC2]\",False [1]\r\n" +
		"\"192.0.0.170/32, 192.0.0.171/32 [3]\",Discovery,[RFC3],True\n" +
		"2002::/16 [3],6to4,[RFC4],N/A [3]\n" +
		"2001:10::/28,Deprecated,[RFC5],\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []iana.Block{
		{Prefix: netip.MustParsePrefix("192.0.0.0/24"), Name: "Protocol"},
		{Prefix: netip.MustParsePrefix("192.0.0.170/32"), Name: "Discovery", Global: true},
		{Prefix: netip.MustParsePrefix("192.0.0.171/32"), Name: "Discovery", Global: true},
		{Prefix: netip.MustParsePrefix("2002::/16"), Name: "6to4"},
		{Prefix: netip.MustParsePrefix("2001:10::/28"), Name: "Deprecated"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

func TestReadRegistryRefuses(t *testing.T) {
	for text, why := range map[string]string{
		"":                                      "header: EOF",
		"<!doctype html>\n<html>moved</html>\n": `no column "Address Block"`,
		"Address Block,Name\n10.0.0.0/8,x\n":    `no column "Globally Reachable"`,
		header:                                  "no address block",
		header + "10.0.0.0/8,x\n":               "wrong number of fields",
		header + "10.0.0.0/8,x,r,False\n10.0.0.0,x,r,False\n": "line 3: address block",
		header + "10.0.0.1/8,x,r,False\n":                     "bits are set beyond the length",
		header + "10.0.0.0/8,x,r,Maybe\n":                     `line 2: column Globally Reachable has "Maybe"`,
		header + ",x,r,False\n":                               "address block",
		header + "10.0.0.0/8,\"x,r,False\n":                   `extraneous or missing "`,
		header + "\"10.0.0.0/8,\",trailing comma,r,False\n":   "address block",
	} {
		_, err := iana.ReadRegistry(strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want an error that says %q", text, err, why)
		}
	}
}

func FuzzReadRegistry(f *testing.F) {
	for _, file := range []string{"data/iana-ipv4-special-registry-1.csv", "data/iana-ipv6-special-registry-1.csv"} {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add(header + "10.0.0.0/8,x,r,N/A [1]\n")
	f.Fuzz(func(t *testing.T, text string) {
		blocks, err := iana.ReadRegistry(strings.NewReader(text))
		if (err == nil) != (len(blocks) > 0) {
			t.Fatalf("%d blocks with error %v", len(blocks), err)
		}
		for _, b := range blocks {
			if !b.Prefix.IsValid() || b.Prefix != b.Prefix.Masked() {
				t.Errorf("prefix %v", b.Prefix)
			}
			if b.Global && !strings.Contains(text, "True") {
				t.Errorf("%v is globally reachable out of nothing", b.Prefix)
			}
		}
	})
}
