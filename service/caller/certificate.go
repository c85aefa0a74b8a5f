package caller

import (
	"crypto/x509"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// certificates tells callers by the names in their certificates.
type certificates struct {
	ids   map[string]*fetch.Caller // by a whole SPIFFE ID
	below map[string]*fetch.Caller // by the beginning of SPIFFE IDs, with its last "/"
	names map[string]*fetch.Caller // by a DNS name in lower case
	// judge says why verified chains are not good any more; nil: they are.
	judge func(chains [][]*x509.Certificate) error
	// idsAlone tells that the listener's authorities vouch for no DNS names.
	idsAlone bool
}

func newCertificates(o Options) certificates {
	return certificates{
		ids: map[string]*fetch.Caller{}, below: map[string]*fetch.Caller{}, names: map[string]*fetch.Caller{},
		judge: o.JudgeCertificates, idsAlone: o.SPIFFEOnly,
	}
}

func (c *certificates) add(known *fetch.Caller, names *configv1.Caller) {
	for _, id := range names.GetSpiffeIds() {
		if beginning, isBeginning := strings.CutSuffix(id, "*"); isBeginning {
			c.below[beginning] = known
		} else {
			c.ids[id] = known
		}
	}
	for _, name := range names.GetDnsNames() {
		if c.idsAlone {
			break
		}
		c.names[strings.ToLower(name)] = known
	}
}

// any tells that some caller is known by a certificate.
func (c *certificates) any() bool { return len(c.ids)+len(c.below)+len(c.names) > 0 }

// find returns who has shown the certificate of a connection, if the listener
// verified it. A certificate of nobody here is no proof, and no offence: the
// listener asks everybody for one.
func (c *certificates) find(of credentials.AuthInfo, now time.Time) (proof, error) {
	secured, ok := handshake(of).(credentials.TLSInfo)
	if !ok || len(secured.State.VerifiedChains) == 0 {
		return proof{}, nil
	}
	shown, err := c.stillGood(secured.State.VerifiedChains)
	if err != nil {
		return proof{}, err
	}
	leaf := secured.State.VerifiedChains[0][0]
	if !c.any() {
		return proof{shown: shown, unknown: leaf}, nil
	}
	found, err := c.name(leaf)
	if err == nil && found.of != nil && now.After(leaf.NotAfter) {
		return proof{}, unknown("the client certificate has expired since the connection began; connect anew with a valid one")
	}
	if found.shown = shown; found.of == nil {
		found.unknown = leaf
	}
	return found, err
}

// The most of a certificate's names that a refusal shows, and of each.
const (
	maxNamesShown     = 3
	maxNameBytesShown = 256
)

// noName refuses an RPC with a good certificate whose names are of no caller.
func (a *Authenticator) noName(leaf *x509.Certificate) *Unknown {
	var names []string
	key := "spiffe_ids"
	if id, err := spiffeID(leaf); err == nil && id != "" {
		names = []string{id}
	} else if !a.certificates.idsAlone {
		names, key = leaf.DNSNames, "dns_names"
	}
	what, next := shownNames(names)+" is of no caller here", "ask the operator to add it to callers[]."+key
	switch {
	case len(names) > 1:
		what, next = shownNames(names)+" are of no caller here", "ask the operator to add one to callers[]."+key
	case len(names) == 0 && a.certificates.idsAlone:
		what, next = "has no SPIFFE ID", "show one that has, such as spiffe://prod/ns/pay/sa/billing"
	case len(names) == 0:
		what, next = "has neither a SPIFFE ID nor a DNS name", "show one that has"
	}
	if a.takesTokens() {
		next += ", or show a token in the metadata, authorization: Bearer TOKEN"
	}
	return unknown(fmt.Sprintf("the certificate is good, but %s; %s", what, next))
}

// shownNames are the first of the names, each escaped and cut where it is long.
func shownNames(names []string) string {
	var words []string
	for _, name := range names[:min(len(names), maxNamesShown)] {
		word := strconv.QuoteToASCII(name[:min(len(name), maxNameBytesShown)])
		if word = word[1 : len(word)-1]; len(name) > maxNameBytesShown {
			word += "..."
		}
		words = append(words, word)
	}
	if more := len(names) - len(words); more > 0 {
		words = append(words, fmt.Sprintf("%d more", more))
	}
	return strings.Join(words, ", ")
}

// stillGood refuses what was verified when its connection began and would not be
// now, whoever it names: a new connection with it would not begin. It returns what
// has to be asked about again, nil if nobody judges.
func (c *certificates) stillGood(chains [][]*x509.Certificate) (*fetch.Certificates, error) {
	if c.judge == nil {
		return nil, nil
	}
	shown := fetch.Certificates(chains)
	return &shown, c.refuse(&shown)
}

func (c *certificates) refuse(shown *fetch.Certificates) error {
	if c.judge == nil || shown == nil {
		return nil
	}
	if err := c.judge(*shown); err != nil {
		return unknown("the client certificate is not good any more: " + err.Error() + "; connect anew with another, or ask who runs fetchgate")
	}
	return nil
}

// name looks for the names of a certificate. All that are known must be of one
// caller.
func (c *certificates) name(leaf *x509.Certificate) (proof, error) {
	id, err := spiffeID(leaf)
	if err != nil {
		return proof{}, err
	}
	found := proof{of: c.findID(id), identity: id}
	for _, name := range leaf.DNSNames {
		name = strings.ToLower(name)
		switch known := c.names[name]; {
		case known == nil:
		case found.of == nil:
			found = proof{of: known, identity: name}
		case found.of != known:
			return proof{}, unknown("the names in the client certificate are of different callers; show a certificate with those of one")
		}
	}
	if found.of == nil {
		return proof{}, nil
	}
	return found, nil
}

// findID returns who has a SPIFFE ID: the whole one is closest, then the longest
// beginning.
func (c *certificates) findID(id string) *fetch.Caller {
	if known := c.ids[id]; known != nil {
		return known
	}
	for end := strings.LastIndexByte(id, '/'); end > 0; end = strings.LastIndexByte(id[:end], '/') {
		if known := c.below[id[:end+1]]; known != nil {
			return known
		}
	}
	return nil
}

// maxSPIFFEID is the longest ID that implementations must support (SPIFFE-ID
// section 2.3).
const maxSPIFFEID = 2048

// spiffeID returns the SPIFFE ID of a certificate, empty if it has none. An
// X.509-SVID has one URI and no more (X509-SVID section 2).
func spiffeID(leaf *x509.Certificate) (string, error) {
	id := ""
	for _, name := range leaf.URIs {
		if strings.EqualFold(name.Scheme, "spiffe") {
			id = name.String()
		}
	}
	switch {
	case id == "":
		return "", nil
	case len(leaf.URIs) != 1:
		return "", unknown("the client certificate has a SPIFFE ID beside other URIs; show one whose SPIFFE ID is its only URI")
	case leaf.IsCA || !isSPIFFEID(id):
		return "", unknown("the client certificate has a URI that is no SPIFFE ID of a workload; show one such as spiffe://prod/ns/pay/sa/billing")
	}
	return id, nil
}

// isSPIFFEID tells whether a URI is an ID with a path (SPIFFE-ID section 2).
func isSPIFFEID(id string) bool {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	domain, path, hasPath := strings.Cut(rest, "/")
	if !ok || !hasPath || len(id) > maxSPIFFEID || domain == "" || strings.Trim(domain, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
		return false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return false
		}
		for i := range len(segment) {
			if !isSegment(segment[i]) {
				return false
			}
		}
	}
	return true
}

func isSegment(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '.' || b == '-' || b == '_'
}
