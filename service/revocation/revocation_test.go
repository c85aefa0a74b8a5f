package revocation_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fetchgate/fetchgate/service/revocation"
)

var now = time.Date(2030, time.January, 1, 0, 0, 0, 0, time.UTC)

// authority signs certificates and revocation lists.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue signs a certificate; a nil authority signs itself. serial 1 and more.
func (a *authority) issue(t testing.TB, name string, serial int64, isCA bool) *authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: isCA, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if isCA {
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	made := &authority{key: newKey(t)}
	parent, by := template, made.key
	if a != nil {
		parent, by = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, made.key.Public(), by)
	if err == nil {
		made.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func (a *authority) pem() []byte { return block("CERTIFICATE", a.cert.Raw) }

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// list signs a list of serials that is good for an hour, with changes.
func (a *authority) list(t testing.TB, change func(*x509.RevocationList), serials ...int64) []byte {
	t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Hour)}
	for _, serial := range serials {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(serial), RevocationTime: now, ReasonCode: 1})
	}
	if change != nil {
		change(l)
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func crl(der []byte) []byte { return block("X509 CRL", der) }

func chain(of ...*authority) [][]*x509.Certificate {
	var one []*x509.Certificate
	for _, a := range of {
		one = append(one, a.cert)
	}
	return [][]*x509.Certificate{one}
}

func parse(t *testing.T, content []byte, known ...*authority) *revocation.Lists {
	t.Helper()
	l, err := revocation.Parse(content, chain(known...)[0])
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// verdict is "", "revoked" or "outdated".
func verdict(err error) string {
	if _, is := errors.AsType[*revocation.Revoked](err); is {
		return "revoked"
	}
	if _, is := errors.AsType[*revocation.Outdated](err); is {
		return "outdated"
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// TestJudge: who is on the list of its issuer is revoked, at each place of the
// chain; a list speaks for its own authority alone.
func TestJudge(t *testing.T) {
	var nobody *authority
	root, other := nobody.issue(t, "root", 1, true), nobody.issue(t, "other", 1, true)
	below := root.issue(t, "below", 2, true)
	leaf, underBelow, namedAsRoot := root.issue(t, "leaf", 7, false), below.issue(t, "leaf", 7, false), root.issue(t, "root", 7, false)
	past := func(l *x509.RevocationList) { l.NextUpdate = now.Add(-time.Second) }
	newer := func(l *x509.RevocationList) { l.ThisUpdate = now }
	again := &authority{key: newKey(t)} // the root with a new key
	again.cert = (&authority{cert: again.cert}).issueAs(t, again.key, "root")
	for name, c := range map[string]struct {
		content []byte
		known   []*authority
		chain   [][]*x509.Certificate
		want    string
	}{
		"on the list":                      {crl(root.list(t, nil, 6, 7)), []*authority{root}, chain(leaf, root), "revoked"},
		"in DER":                           {root.list(t, nil, 7), []*authority{root}, chain(leaf, root), "revoked"},
		"not on the list":                  {crl(root.list(t, nil, 6, 8)), []*authority{root}, chain(leaf, root), ""},
		"an empty list":                    {crl(root.list(t, nil)), []*authority{root}, chain(leaf, root), ""},
		"on the list of another":           {crl(other.list(t, nil, 7)), []*authority{root, other}, chain(leaf, root), ""},
		"the authority between":            {crl(root.list(t, nil, 2)), []*authority{root}, chain(underBelow, below, root), "revoked"},
		"below it, by its list":            {append(crl(below.list(t, nil, 7)), below.pem()...), []*authority{root}, chain(underBelow, below, root), "revoked"},
		"below it, by the root's":          {crl(root.list(t, nil, 7)), []*authority{root}, chain(underBelow, below, root), ""},
		"trusted, and revoked by the root": {crl(root.list(t, nil, 2)), []*authority{root, below}, chain(underBelow, below), "revoked"},
		"the root itself":                  {crl(root.list(t, nil, 1)), []*authority{root}, chain(leaf, root), ""},
		"with the name of its authority":   {crl(root.list(t, nil, 7)), []*authority{root}, chain(namedAsRoot, root), "revoked"},
		"in one of two chains":             {crl(root.list(t, nil, 7)), []*authority{root}, append(chain(underBelow, below, root), chain(leaf, root)...), "revoked"},
		"out of date":                      {crl(root.list(t, past)), []*authority{root}, chain(leaf, root), "outdated"},
		"out of date and on the list":      {crl(root.list(t, past, 7)), []*authority{root}, chain(leaf, root), "revoked"},
		"another's is out of date":         {append(crl(root.list(t, nil)), crl(other.list(t, past))...), []*authority{root, other}, chain(leaf, root), ""},
		"a newer one of two":               {append(crl(root.list(t, newer, 7)), crl(root.list(t, nil))...), []*authority{root}, chain(leaf, root), "revoked"},
		"an older one of two":              {append(crl(root.list(t, nil, 7)), crl(root.list(t, newer))...), []*authority{root}, chain(leaf, root), ""},
		"signed with a newer key":          {crl(again.list(t, nil, 7)), []*authority{root, again}, chain(leaf, root), "revoked"},
		"one for each key":                 {append(crl(again.list(t, nil, 7)), crl(root.list(t, nil))...), []*authority{root, again}, chain(leaf, root), ""},
		"no certificate":                   {crl(root.list(t, nil, 7)), []*authority{root}, nil, ""},
	} {
		if got := verdict(parse(t, c.content, c.known...).Judge(c.chain, now)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if err := (*revocation.Lists)(nil).Judge(chain(leaf, root), now); err != nil {
		t.Errorf("without lists: %v", err)
	}
	lists := parse(t, append(crl(root.list(t, past)), crl(other.list(t, nil))...), root, other)
	if late := lists.Outdated(now); lists.Len() != 2 || len(late) != 1 || late[0].Authority != "CN=root" {
		t.Errorf("%d lists, %v", lists.Len(), late)
	}
}

// issueAs is a root with a key.
func (*authority) issueAs(t testing.TB, key crypto.Signer, name string) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestParseRefuses: what would revoke nobody, or not all that it seems to, is
// refused with what to do.
func TestParseRefuses(t *testing.T) {
	var nobody *authority
	root, namesake, other := nobody.issue(t, "root", 1, true), nobody.issue(t, "root", 1, true), nobody.issue(t, "other", 1, true)
	below := root.issue(t, "below", 2, true)
	unlawful := nobody.issue(t, "unlawful", 1, true)
	signsNoLists := *unlawful.cert
	signsNoLists.KeyUsage = x509.KeyUsageCertSign
	with := func(critical bool, id ...int) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: id, Critical: critical, Value: []byte{asn1.TagNull, 0}}}
		}
	}
	entry := func(critical bool, id ...int) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.RevokedCertificateEntries[0].ExtraExtensions = []pkix.Extension{{Id: id, Critical: critical, Value: []byte{asn1.TagNull, 0}}}
		}
	}
	good := crl(root.list(t, nil, 7))
	forged := root.list(t, nil, 7)
	forged[len(forged)-1] ^= 1
	for name, c := range map[string]struct {
		content []byte
		want    string // "" for none
	}{
		"good":                             {good, ""},
		"text around it":                   {slicesOf([]byte("root:\n"), good, []byte("\n")), ""},
		"nothing":                          {nil, "holds no revocation list"},
		"text":                             {[]byte("hello"), "holds no revocation list"},
		"a certificate alone":              {root.pem(), "holds no revocation list"},
		"a key":                            {slicesOf(good, block("PRIVATE KEY", []byte("x"))), `holds a "PRIVATE KEY"`},
		"no list":                          {crl([]byte("hello")), "number 1, that cannot be used: x509: malformed crl"},
		"bytes after DER":                  {append(root.list(t, nil), 0), "bytes follow it"},
		"cut off":                          {slicesOf(good, good[:len(good)/2]), "broken or cut off"},
		"cut off at its end":               {slicesOf(good, good[:len(good)-3]), "broken or cut off"},
		"broken in the middle":             {slicesOf(bytes.Replace(good, []byte("MI"), []byte("!!"), 1), good), "broken or cut off"},
		"of an authority that is not here": {slicesOf(good, crl(other.list(t, nil))), `number 2, that cannot be used: the one of "CN=other" is not verified: no authority of client_ca_file is called so`},
		"by another of that name":          {crl(namesake.list(t, nil)), "has not signed it"},
		"changed":                          {crl(forged), "has not signed it"},
		"by one that signs no lists":       {crl(unlawful.list(t, nil)), "have it issued with the key usage cRLSign"},
		"below, without the certificate":   {crl(below.list(t, nil)), "of one below those, to the file of the list"},
		"below, with it":                   {slicesOf(below.pem(), crl(below.list(t, nil))), ""},
		"below another":                    {slicesOf(good, other.issue(t, "b", 2, true).pem()), `holds the certificate of "CN=b"`},
		"below, by no authority":           {slicesOf(good, root.issue(t, "leaf", 9, false).issue(t, "b", 2, true).pem()), `holds the certificate of "CN=b"`},
		"a delta list":                     {crl(root.list(t, with(true, 2, 5, 29, 27))), "a delta list"},
		"a delta list, not critical":       {crl(root.list(t, with(false, 2, 5, 29, 27))), "a delta list"},
		"a part":                           {crl(root.list(t, with(true, 2, 5, 29, 28))), "an issuing distribution point"},
		"unknown and critical":             {crl(root.list(t, with(true, 1, 2, 3))), "the critical extension 1.2.3"},
		"unknown":                          {crl(root.list(t, with(false, 1, 2, 3))), ""},
		"where deltas are":                 {crl(root.list(t, with(false, 2, 5, 29, 46))), ""},
		"an indirect entry":                {crl(root.list(t, entry(true, 2, 5, 29, 29), 7)), "an indirect list"},
		"an entry, unknown and critical":   {crl(root.list(t, entry(true, 1, 2, 3), 7)), "an entry with the critical extension 1.2.3"},
		"an entry, unknown":                {crl(root.list(t, entry(false, 1, 2, 3), 7)), ""},
	} {
		_, err := revocation.Parse(c.content, []*x509.Certificate{root.cert, &signsNoLists})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err != nil && !strings.Contains(err.Error(), ";") {
			t.Errorf("%s: the error does not say what to do: %v", name, err)
		}
	}
	endless := endless(t, root)
	if _, err := revocation.Parse(crl(endless), []*x509.Certificate{root.cert}); err == nil || !strings.Contains(err.Error(), "nextUpdate") {
		t.Errorf("without nextUpdate: %v", err)
	}
}

func slicesOf(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// endless is a list that does not say when the next one is due.
func endless(t *testing.T, by *authority) []byte {
	t.Helper()
	ecdsaWithSHA256 := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}
	tbs, err := asn1.Marshal(struct {
		Version    int
		Signature  pkix.AlgorithmIdentifier
		Issuer     asn1.RawValue
		ThisUpdate time.Time
	}{1, ecdsaWithSHA256, asn1.RawValue{FullBytes: by.cert.RawSubject}, now})
	if err != nil {
		t.Fatal(err)
	}
	hash := crypto.SHA256.New()
	hash.Write(tbs)
	signature, err := by.key.Sign(rand.Reader, hash.Sum(nil), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, ecdsaWithSHA256, asn1.BitString{Bytes: signature, BitLength: len(signature) * 8}})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestRead: what a file may be.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int{"most": revocation.MaxFileBytes, "more": revocation.MaxFileBytes + 1} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		filepath.Join(dir, "most"): "", filepath.Join(dir, "more"): "larger than 16 MiB", filepath.Join(dir, "gone"): "cannot be read: no such file", dir: "not a regular file",
	} {
		if _, err := revocation.Read(name); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// large is a file of nearly 16 MiB.
func large(t testing.TB, by *authority) []byte {
	serials := make([]int64, 400_000)
	for i := range serials {
		serials[i] = int64(i) + 1<<50
	}
	return by.list(t, nil, serials...)
}

func BenchmarkParseLarge(b *testing.B) {
	root := (*authority)(nil).issue(b, "root", 1, true)
	content := large(b, root)
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := revocation.Parse(content, []*x509.Certificate{root.cert}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkJudge(b *testing.B) {
	root := (*authority)(nil).issue(b, "root", 1, true)
	leaf := root.issue(b, "leaf", 7, false)
	lists, err := revocation.Parse(large(b, root), []*x509.Certificate{root.cert})
	if err != nil {
		b.Fatal(err)
	}
	chains := chain(leaf, root)
	b.ReportAllocs()
	for b.Loop() {
		if lists.Judge(chains, now) != nil {
			b.Fatal("revoked")
		}
	}
}
