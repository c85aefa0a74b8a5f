package config_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/config"
	"github.com/fetchgate/fetchgate/service/fetch"
)

const page = "../../docs/configuration.md"

// row is one setting of a table of the page.
type row struct{ path, kind, defaultText, rangeText, example string }

var (
	headingPath = regexp.MustCompile("(?m)^##+ `([^`]+)`")
	tableRow    = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|(.*)\\|$")
	literal     = regexp.MustCompile("^`([^`]+)`$")
)

func readPage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// fullRows returns the rows of the tables with all six columns.
func fullRows(t *testing.T) []row {
	var rows []row
	for _, m := range tableRow.FindAllStringSubmatch(readPage(t), -1) {
		cells := strings.Split(m[2], "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) == 5 {
			rows = append(rows, row{path: m[1], kind: cells[0], defaultText: cells[1], rangeText: cells[2], example: cells[3]})
		}
	}
	return rows
}

// schemaPaths returns every path of the schema with its field.
func schemaPaths() map[string]protoreflect.FieldDescriptor {
	paths := map[string]protoreflect.FieldDescriptor{}
	var visit func(d protoreflect.MessageDescriptor, prefix string)
	visit = func(d protoreflect.MessageDescriptor, prefix string) {
		for i := range d.Fields().Len() {
			field := d.Fields().Get(i)
			path := prefix + string(field.Name())
			paths[path] = field
			if field.Message() == nil || field.IsMap() || field.Message().FullName() == "google.protobuf.Duration" {
				continue
			}
			if field.IsList() {
				path += "[]"
			}
			visit(field.Message(), path+".")
		}
	}
	visit((&configv1.Config{}).ProtoReflect().Descriptor(), "")
	return paths
}

func TestPageNamesEverySetting(t *testing.T) {
	text := readPage(t)
	documented := map[string]int{}
	for _, m := range slices.Concat(headingPath.FindAllStringSubmatch(text, -1), tableRow.FindAllStringSubmatch(text, -1)) {
		documented[m[1]]++
	}
	schema := schemaPaths()
	for path := range schema {
		if documented[path] != 1 {
			t.Errorf("%s has %d places of its own in %s, want 1", path, documented[path], page)
		}
	}
	for path := range documented {
		if schema[path] == nil {
			t.Errorf("%s is in %s but not in the schema", path, page)
		}
	}
}

// parseSetting parses a file that sets only path, and what its section requires.
func parseSetting(t *testing.T, path, value string) *config.Loaded {
	t.Helper()
	text := flow(path, value)
	loaded, err := config.Parse(besideFiles(t), []byte(text))
	if err != nil {
		t.Errorf("%s: %v", text, err)
	}
	return loaded
}

// besideFiles names a configuration beside the files that the examples name.
func besideFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	writeCertificate(t, filepath.Join(dir, "corp-ca.pem"), "corp")
	writeCertificate(t, filepath.Join(dir, "callers-ca.pem"), "callers")
	writePair(t, dir, "tls.crt", "tls.key")
	writeLists(t, dir, "callers-ca.pem", "callers.crl")
	return filepath.Join(dir, "fetchgate.yaml")
}

// beside is what has to stand beside a setting, by the mapping that it is in;
// what is written for the setting itself goes before.
var beside = map[string]map[string]string{
	"callers[]":        {"name": "everyone", "dangerous_anonymous": "true"},
	"callers[].jwts[]": {"issuer": "corp", "subject": "a"},
	"jwt_issuers[]":    {"name": "corp", "issuer": "https://issuer.example", "audiences": "[fetchgate]", "jwks_file": "jwks.json"},
	"tls_profiles[]":   {"name": "a"},
	"grpc.unix":        {"path": "/run/fetchgate.sock"},
	"rules[]":          {"name": "a", "origins": `["https://example.com"]`},
	"grpc.tls":         {"cert_file": "tls.crt", "key_file": "tls.key"},

	"credentials[]":                    {"name": "a", "origins": `["https://example.com"]`, "bearer": "{token: {env: A}}"},
	"credentials[].bearer":             {"token": "{env: A}"},
	"credentials[].bearer.token":       {"env": "A"},
	"credentials[].basic":              {"username": "a", "password": "{env: A}"},
	"credentials[].basic.password":     {"env": "A"},
	"credentials[].api_key":            {"header": "X-Key", "key": "{env: A}"},
	"credentials[].api_key.key":        {"env": "A"},
	"credentials[].header":             {"name": "X-A", "template": `"a={secret}"`, "secret": "{env: A}"},
	"credentials[].header.secret":      {"env": "A"},
	"credentials[].client_certificate": {"cert_file": "tls.crt", "key_file": "tls.key"},
}

// instead are settings of which a mapping of credentials has one: the first is
// written in the place of the second.
var instead = map[string]string{
	"file": "env", "next_file": "env", "query_param": "header",
	"basic": "bearer", "api_key": "bearer", "header": "bearer", "client_certificate": "bearer",
}

// withFile is what a setting needs elsewhere in the file, by its beginning.
var withFile = map[string]string{
	"rules[].callers":       "callers: [{name: shop, dangerous_anonymous: true}, {name: billing, dns_names: [billing.example]}]\ngrpc: {tls: {cert_file: tls.crt, key_file: tls.key, client_ca_file: callers-ca.pem}}",
	"rules[].tls_profile":   "tls_profiles: [{name: partner}]",
	"callers[].spiffe_ids":  "grpc: {tls: {cert_file: tls.crt, key_file: tls.key, client_ca_file: callers-ca.pem}}",
	"callers[].dns_names":   "grpc: {tls: {cert_file: tls.crt, key_file: tls.key, client_ca_file: callers-ca.pem}}",
	"rules[].credentials":   "credentials: [{name: partner-key, bearer: {token: {env: A}}, origins: ['https://a.test']}]",
	"credentials[].callers": "callers: [{name: billing, dangerous_anonymous: true}]",
	"callers[].unix_uids":   "grpc: {unix: {path: /run/fetchgate.sock}}",
	"callers[].jwts":        "jwt_issuers: [{name: corp, issuer: a, audiences: [b], jwks_file: jwks.json}]",
}

// flow writes path: value as nested flow mappings.
func flow(path, value string) string {
	text := nested("", path, value)
	switch {
	case path == "audit.file":
		return "audit: {sink: file, file: " + value + "}"
	case path == "audit.sink" && value == "file":
		return "audit: {sink: file, file: f}"
	case path == "audit.otlp_endpoint":
		return "audit: {sink: otlp, otlp_endpoint: '" + value + "'}"
	}
	for beginning, more := range withFile {
		if strings.HasPrefix(path, beginning) {
			text += "\n" + more
		}
	}
	return text
}

// nested writes path: value inside the mapping at a path.
func nested(at, path, value string) string {
	first, rest, isNested := strings.Cut(path, ".")
	key, isList := strings.CutSuffix(first, "[]")
	if isNested {
		value = "{" + nested(strings.TrimPrefix(at+"."+first, "."), rest, value) + "}"
	}
	if isNested && isList {
		value = "[" + value + "]"
	}
	entries := maps.Clone(beside[at])
	if entries == nil {
		entries = map[string]string{}
	}
	if other := instead[key]; strings.HasPrefix(at, "credentials") {
		delete(entries, other)
	}
	if key == "next_file" {
		entries["file"] = "a"
	}
	if strings.HasPrefix(key, "jwks_") {
		delete(entries, "jwks_file")
		entries["jwks_url"] = "https://issuer.example/keys"
		if key == "jwks_file" {
			delete(entries, "jwks_url")
		}
	}
	switch {
	case at == "grpc.tls" && key == "workload_api":
		clear(entries)
	case at == "grpc.tls" && strings.HasPrefix(key, "client_"):
		entries["client_ca_file"] = "callers-ca.pem"
	}
	entries[key] = value
	var texts []string
	for _, k := range slices.Sorted(maps.Keys(entries)) {
		texts = append(texts, k+": "+entries[k])
	}
	return strings.Join(texts, ", ")
}

// settings are all values that have defaults.
type settings struct {
	GRPC, HTTP string
	Drain      time.Duration
	Streams    uint32
	TLS        uint16
	Level      string
	JSON       bool
	Dangerous  int
	Limits     fetch.Limits
	// Connections are in all and from one address.
	Connections [2]int
	Delay       time.Duration
	Audit       string
	Traceparent bool
	Leeway      time.Duration
	Watch       bool
	Revoke      time.Duration
	// Words are how rules are carried out, without the defaults.
	Words string
	Unix  fs.FileMode
}

func settingsOf(l *config.Loaded) settings {
	total, perPeer := l.MaxConnections()
	a := l.Audit()
	audit := fmt.Sprint(a.GetSink(), " ", filepath.Base(a.GetFile()), " ", a.GetMaxFileBytes(), " ", a.GetKeepFiles(), " ", a.GetDetail(), " ", a.GetOnFull(), " ", a.GetMaxQueueBytes())
	leeway := 30 * time.Second
	if i := l.Config.GetJwtIssuers(); len(i) > 0 && i[0].GetLeeway() != nil {
		leeway = i[0].GetLeeway().AsDuration()
	}
	traceparent := len(l.Config.GetRules()) > 0 && l.Config.GetRules()[0].GetSendTraceparent()
	return settings{
		l.GRPCAddress(), l.HTTPAddress(), l.DrainGrace(), l.MaxConcurrentStreams(),
		l.MinTLSVersion(), l.LogLevel().String(), l.LogJSON(), len(l.Dangerous()), l.Limits(),
		[2]int{total, perPeer}, l.DrainDelay(), audit, traceparent, leeway, l.Watch(), l.RevokeGrace(), wordsOf(l), unixMode(l),
	}
}

// unixMode are the permissions of the unix socket where they are not the default.
func unixMode(l *config.Loaded) fs.FileMode {
	if path, mode := l.UnixSocket(); path != "" && mode != 0o660 {
		return mode
	}
	return 0
}

// wordsOf are the settings of modes and rules that other packages read, where
// they are not the default.
func wordsOf(l *config.Loaded) string {
	words := [][2]string{{"enforce", l.Config.GetMode()}, {"required", l.Config.GetGrpc().GetTls().GetClientCertificates()}}
	if rules := l.Config.GetRules(); len(rules) > 0 {
		r := rules[0]
		words = append(words, [2]string{"allow", r.GetAction()}, [2]string{"enforce", r.GetMode()}, [2]string{"deny", r.GetMixedAnswers()},
			[2]string{"shared", r.GetIsolate()}, [2]string{"false", strconv.FormatBool(r.GetAllowUnderscoreFields())})
	}
	var set []string
	for _, w := range words {
		if w[1] != "" && w[1] != w[0] {
			set = append(set, w[1])
		}
	}
	return strings.Join(set, " ")
}

// TestPageDefaults sets each setting to the default that the page states, which
// must change nothing.
func TestPageDefaults(t *testing.T) {
	checked := 0
	for _, r := range fullRows(t) {
		m := literal.FindStringSubmatch(r.defaultText)
		if m == nil || r.path == "callers[].dangerous_anonymous" { // absent, it is refused
			continue
		}
		checked++
		loaded := parseSetting(t, r.path, m[1])
		if loaded == nil {
			continue
		}
		if got, want := settingsOf(loaded), settingsOf(config.Default()); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %s is not the default:\n%+v\n%+v", r.path, m[1], got, want)
		}
	}
	if checked < 38 {
		t.Errorf("only %d defaults were found", checked)
	}
	if got := config.Default().Limits(); got != fetch.DefaultLimits() {
		t.Errorf("the limits are %+v, want %+v", got, fetch.DefaultLimits())
	}
}

// TestPageExamples sets each setting to the example of the page. One that has a
// default must then differ from it.
func TestPageExamples(t *testing.T) {
	for _, r := range fullRows(t) {
		m := literal.FindStringSubmatch(r.example)
		if m == nil {
			t.Errorf("%s has no example", r.path)
			continue
		}
		loaded := parseSetting(t, r.path, m[1])
		if loaded == nil || literal.FindString(r.defaultText) == "" && !strings.HasPrefix(r.path, "limits.") {
			continue
		}
		if reflect.DeepEqual(settingsOf(loaded), settingsOf(config.Default())) {
			t.Errorf("%s: %s takes no effect", r.path, m[1])
		}
	}
}

func TestPageRanges(t *testing.T) {
	schema := schemaPaths()
	checked := 0
	for _, r := range fullRows(t) {
		field := schema[r.path]
		if field == nil {
			continue
		}
		want := rangeOf(field)
		if want == "" {
			continue
		}
		checked++
		if r.rangeText != want {
			t.Errorf("the range of %s is %q, want %q", r.path, r.rangeText, want)
		}
	}
	if checked < 36 {
		t.Errorf("only %d ranges were checked", checked)
	}
}

// rangeOf writes the range that the schema states for a single value; empty
// means that it states none in numbers or words.
func rangeOf(field protoreflect.FieldDescriptor) string {
	rules := proto.GetExtension(field.Options(), validate.E_Field).(*validate.FieldRules)
	switch {
	case rules.HasInt32():
		return fmt.Sprintf("%d to %d", rules.GetInt32().GetGte(), rules.GetInt32().GetLte())
	case rules.HasInt64() && !rules.GetInt64().HasLte():
		return fmt.Sprintf("%d or more", rules.GetInt64().GetGte())
	case rules.HasInt64():
		return fmt.Sprintf("%d to %d", rules.GetInt64().GetGte(), rules.GetInt64().GetLte())
	case rules.HasDuration():
		return inSeconds(rules.GetDuration().GetGte()) + " to " + inSeconds(rules.GetDuration().GetLte())
	case rules.HasString() && len(rules.GetString().GetIn()) > 0:
		words := rules.GetString().GetIn()[1:] // the first is the empty one
		last := len(words) - 1
		return strings.Join(words[:last], ", ") + " or " + words[last]
	}
	return ""
}

func inSeconds(d *durationpb.Duration) string {
	if d.AsDuration() < time.Second && d.AsDuration() > 0 {
		return d.AsDuration().String()
	}
	return fmt.Sprintf("%ds", d.GetSeconds())
}

// TestPageExampleFile loads the complete example.
func TestPageExampleFile(t *testing.T) {
	_, after, found := strings.Cut(readPage(t), "```yaml\n")
	text, _, closed := strings.Cut(after, "```")
	if !found || !closed {
		t.Fatal("the page has no example file")
	}
	dir := t.TempDir()
	writeCertificate(t, filepath.Join(dir, "corp-ca.pem"), "corp")
	writeCertificate(t, filepath.Join(dir, "callers-ca.pem"), "callers")
	writePair(t, dir, "tls.crt", "tls.key")
	loaded, err := config.Parse(filepath.Join(dir, "fetchgate.yaml"), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := loaded.Limits().MaxTimeouts.Total; got != 2*time.Minute {
		t.Errorf("limits.max_timeouts.total is %v", got)
	}
	if got, want := loaded.Dangerous(), []string{"callers[0].dangerous_anonymous"}; !slices.Equal(got, want) {
		t.Errorf("dangerous are %v, want %v", got, want)
	}
}
