package iana_test

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/fetchgate/fetchgate/service/iana"
)

func TestClassify(t *testing.T) {
	tests := []struct {
		class     iana.Class
		addresses []string
	}{
		{iana.Public, []string{
			"8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.0", "223.255.255.255", "168.63.129.15", "168.63.129.17",
			"2000::1", "2606:4700:4700::1111", "3ffe::1", "3fff:1000::",
			"192.0.0.9", "2001:1::1", "2001:20::1", // more specific than a block that is not globally reachable
			"::ffff:8.8.8.8", "64:ff9b::8.8.8.8",
		}},
		{iana.Private, []string{"10.0.0.1", "172.16.0.0", "172.31.255.255", "192.168.1.1", "fc00::", "fdff::1", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1"}},
		{iana.Loopback, []string{"127.0.0.1", "127.255.255.255", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "64:ff9b::127.0.0.1", "::1%lo"}},
		{iana.LinkLocal, []string{"169.254.0.1", "169.254.255.255", "fe80::1", "febf::1", "fe80::1%eth0"}},
		{iana.Multicast, []string{"224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::5efe:a00:1", "64:ff9b::224.0.0.1"}},
		{iana.Shared, []string{"100.64.0.0", "100.127.255.255", "::ffff:100.64.0.1", "64:ff9b::100.64.0.1"}},
		{iana.Special, []string{
			"0.0.0.1", "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.88.99.2", "198.18.0.1", "240.0.0.1", "255.255.255.255",
			"64:ff9b:1::8.8.8.8", "100::1", "100:0:0:1::1", "2001:db8::1", "2001:2::1", "2001:10::1", "2001:40::", "3fff::1", "5f00::1",
		}},
		{iana.Tunnel, []string{
			"::8.8.8.8", "::2", // IPv4-compatible
			"::ffff:0:8.8.8.8",                                                                                 // SIIT
			"2002:808:808::1",                                                                                  // 6to4
			"2001:0:808:808::1",                                                                                // Teredo
			"2606:4700::5efe:a00:1", "2606:4700::200:5efe:808:808", "fe80::5efe:a00:1", "fd00::200:5efe:a00:1", // ISATAP
		}},
		{iana.Outside, []string{"::1:0:0:0", "64:ff9b:0:1::", "64:ff9a::1", "64:ff9b:2::", "1fff::1", "4000::1", "fbff::1", "fec0::1", "fe00::1"}},
	}
	for _, test := range tests {
		for _, text := range test.addresses {
			if got := iana.Classify(netip.MustParseAddr(text)); got != test.class {
				t.Errorf("%s is %v, want %v", text, got, test.class)
			}
		}
	}
}

func TestUnset(t *testing.T) {
	if got := iana.Classify(netip.Addr{}); got != iana.Special {
		t.Errorf("the zero address is %v, want special", got)
	}
	var c iana.Class
	if c == iana.Public {
		t.Error("the zero class is public")
	}
	var table iana.Table
	if got := table.Classify(netip.MustParseAddr("64:ff9b::8.8.8.8")); got == iana.Public {
		t.Error("the zero table unwraps NAT64")
	}
}

func TestZoneIsNeverPublic(t *testing.T) {
	for _, text := range []string{"2606:4700:4700::1111%eth0", "::ffff:8.8.8.8%eth0", "64:ff9b::8.8.8.8%1"} {
		if got := iana.Classify(netip.MustParseAddr(text)); got != iana.Special {
			t.Errorf("%s is %v, want special", text, got)
		}
	}
}

func TestClassNames(t *testing.T) {
	want := []string{"special", "public", "private", "loopback", "link_local", "multicast", "shared", "metadata", "tunnel", "outside"}
	for i, name := range want {
		if got := iana.Class(i).String(); got != name {
			t.Errorf("class %d is %q, want %q", i, got, name)
		}
	}
	if got := iana.Class(len(want)).String(); got != "Class(10)" {
		t.Errorf("the list of classes is longer than the test knows: %q", got)
	}
}

func TestMetadata(t *testing.T) {
	required := []string{
		"169.254.169.254", "169.254.170.2", "169.254.169.250", "169.254.169.253", "fd00:ec2::254", "fd20:ce::254",
		"192.0.0.192", "100.100.100.200", "168.63.129.16",
	}
	for _, row := range readCSV(t, "data/metadata.csv") {
		required = append(required, row["Address"])
		if row["Used by"] == "" || !strings.HasPrefix(row["Source"], "https://") {
			t.Errorf("%s: who uses it (%q) and a source (%q) must be given", row["Address"], row["Used by"], row["Source"])
		}
	}
	table, err := iana.New(netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("fd20:ce::/96"))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range required {
		forms := []string{text}
		if a := netip.MustParseAddr(text); a.Is4() {
			forms = append(forms, "::ffff:"+text, "64:ff9b::"+text, "64:ff9b::"+text+"%eth0")
		} else {
			forms = append(forms, text+"%eth0")
		}
		for _, form := range forms {
			a := netip.MustParseAddr(form)
			if got := iana.Classify(a); got != iana.Metadata {
				t.Errorf("%s is %v, want metadata", form, got)
			}
			if got := table.Classify(a); got != iana.Metadata {
				t.Errorf("%s is %v beside a NAT64 prefix, want metadata", form, got)
			}
		}
	}
}

// verdict is what one case of testdata/addresses.json wants.
type verdict struct {
	ID, IP, Must string
	Contested    bool
}

func readVerdicts(t *testing.T) []verdict {
	t.Helper()
	text, err := os.ReadFile("testdata/addresses.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Address []verdict }
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Address) != 323 {
		t.Fatalf("%d cases, want 323", len(file.Address))
	}
	return file.Address
}

// judgedAsIPv4 are the mapped addresses whose verdict comes from IANA's row for
// ::ffff:0:0/96 as a whole. We unmap first, as the other mapped cases want
// (::ffff:8.0.0.0 must be allowed), so the case of the IPv4 address decides.
var judgedAsIPv4 = map[string]string{"addr-0146": "addr-0030"}

func TestThirdPartyVerdicts(t *testing.T) {
	verdicts := readVerdicts(t)
	must := map[string]string{}
	for _, v := range verdicts {
		must[v.ID] = v.Must
	}
	for _, v := range verdicts {
		if v.Must != "deny" && v.Must != "allow" {
			t.Fatalf("%s: must is %q", v.ID, v.Must)
		}
		if id, ok := judgedAsIPv4[v.ID]; ok {
			t.Logf("%s (%s): judged by %s", v.ID, v.IP, id)
			v.Must = must[id]
		}
		class := iana.Classify(netip.MustParseAddr(v.IP))
		agrees := (class == iana.Public) == (v.Must == "allow")
		switch {
		case v.Contested:
			t.Logf("contested: %s is %v, sources prefer %s", v.IP, class, v.Must)
		case !agrees:
			t.Errorf("%s: %s is %v, must %s", v.ID, v.IP, class, v.Must)
		}
	}
}

func TestNoFormOfADeniedIPv4IsPublic(t *testing.T) {
	forms := []string{
		"::ffff:%s",                                                     // mapped
		"::%s",                                                          // compatible
		"::ffff:0:%s",                                                   // SIIT
		"64:ff9b::%s",                                                   // NAT64
		"64:ff9b:1::%s",                                                 // local NAT64
		"2606:4700::5efe:%s", "2606:4700::200:5efe:%s", "fe80::5efe:%s", // ISATAP
		"2001:0:4136:e378:8000:63bf:%s", // Teredo
	}
	denied := 0
	for _, v := range readVerdicts(t) {
		v4 := netip.MustParseAddr(v.IP)
		if !v4.Is4() || v.Must != "deny" || v.Contested {
			continue
		}
		denied++
		for _, form := range forms {
			text := fmt.Sprintf(form, v.IP)
			if got := iana.Classify(netip.MustParseAddr(text)); got == iana.Public {
				t.Errorf("%s is public, but %s is denied", text, v.IP)
			}
		}
		o := v4.As4()
		sixToFour := fmt.Sprintf("2002:%02x%02x:%02x%02x::1", o[0], o[1], o[2], o[3])
		if got := iana.Classify(netip.MustParseAddr(sixToFour)); got != iana.Tunnel {
			t.Errorf("%s is %v, want tunnel", sixToFour, got)
		}
	}
	if denied < 80 {
		t.Errorf("only %d denied IPv4 addresses tried", denied)
	}
}

// TestRegistryRows reads the registries a second time, by its own means, and
// holds the first and the last address of every block against its row.
func TestRegistryRows(t *testing.T) {
	type row struct {
		prefix    netip.Prefix
		reachable bool
	}
	var rows []row
	for _, file := range []string{"data/iana-ipv4-special-registry-1.csv", "data/iana-ipv6-special-registry-1.csv"} {
		for _, cells := range readCSV(t, file) {
			for text := range strings.SplitSeq(cells["Address Block"], ", ") {
				block, _, _ := strings.Cut(text, " ")
				rows = append(rows, row{netip.MustParsePrefix(block), cells["Globally Reachable"] == "True"})
			}
		}
	}
	if len(rows) < 40 {
		t.Errorf("only %d blocks", len(rows))
	}
	nat64 := netip.MustParsePrefix("64:ff9b::/96") // reachable, but judged by its IPv4 addresses
	for _, r := range rows {
		for _, a := range []netip.Addr{r.prefix.Addr(), lastAddress(r.prefix)} {
			decides := r
			for _, other := range rows {
				if other.prefix.Contains(a) && other.prefix.Bits() > decides.prefix.Bits() {
					decides = other
				}
			}
			want := decides.reachable && r.prefix != nat64
			if got := iana.Classify(a); (got == iana.Public) != want {
				t.Errorf("%v of %v is %v; globally reachable by %v: %v", a, r.prefix, got, decides.prefix, decides.reachable)
			}
		}
	}
}

func lastAddress(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < 8*len(b); bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func readCSV(t *testing.T, file string) []map[string]string {
	t.Helper()
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	records, err := csv.NewReader(in).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var rows []map[string]string
	for _, record := range records[1:] {
		row := map[string]string{}
		for i, name := range records[0] {
			row[name] = record[i]
		}
		rows = append(rows, row)
	}
	return rows
}

func TestNoAllocation(t *testing.T) {
	table, err := iana.New(netip.MustParsePrefix("2001:db8:122::/48"))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"8.8.8.8", "::ffff:10.0.0.1", "2606:4700:4700::1111", "64:ff9b::8.8.8.8", "2001:db8:122:808:8:800::", "fe80::1%eth0"} {
		a := netip.MustParseAddr(text)
		if n := testing.AllocsPerRun(100, func() { table.Classify(a) }); n != 0 {
			t.Errorf("%s: %v allocations", text, n)
		}
	}
}

func FuzzClassify(f *testing.F) {
	for _, text := range []string{"8.8.8.8", "169.254.169.254", "2606:4700::5efe:a00:1", "64:ff9b::7f00:1", "2002:808:808::1", "::ffff:0:7f00:1"} {
		b := netip.MustParseAddr(text).As16()
		f.Add(b[:])
	}
	globalUnicast := netip.MustParsePrefix("2000::/3")
	nat64 := netip.MustParsePrefix("64:ff9b::/96")
	denied := []netip.Prefix{netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("3fff::/20")}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != 16 {
			return
		}
		a, _ := netip.AddrFromSlice(b)
		class := iana.Classify(a)
		if strings.HasPrefix(class.String(), "Class(") {
			t.Errorf("%v has no class: %v", a, class)
		}
		if class == iana.Public && !a.Is4In6() {
			if !globalUnicast.Contains(a) && !nat64.Contains(a) {
				t.Errorf("%v is public outside 2000::/3", a)
			}
			if slices.ContainsFunc(denied, func(p netip.Prefix) bool { return p.Contains(a) }) {
				t.Errorf("%v is public", a)
			}
		}
		if zoned := iana.Classify(a.WithZone("eth0")); zoned == iana.Public || class != iana.Public && zoned != class {
			t.Errorf("%v is %v with a zone and %v without", a, zoned, class)
		}

		v4 := netip.AddrFrom4([4]byte(b[12:]))
		want := iana.Classify(v4)
		for _, form := range []string{"::ffff:", "64:ff9b::"} {
			if got := iana.Classify(netip.MustParseAddr(form + v4.String())); got != want {
				t.Errorf("%s%v is %v, but %v is %v", form, v4, got, v4, want)
			}
		}
	})
}

func BenchmarkClassify(b *testing.B) {
	table, err := iana.New(netip.MustParsePrefix("2001:db8:122::/48"), netip.MustParsePrefix("fd00:64::/96"))
	if err != nil {
		b.Fatal(err)
	}
	for _, text := range []string{"8.8.8.8", "10.0.0.1", "::ffff:8.8.8.8", "2606:4700:4700::1111", "64:ff9b::8.8.8.8", "2001:db8:122:808:8:800::", "fe80::1%eth0"} {
		a := netip.MustParseAddr(text)
		b.Run(text, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				table.Classify(a)
			}
		})
	}
}
