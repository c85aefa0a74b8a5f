package service_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// contractFiles are the descriptors of fetchgate.v1.
func contractFiles(t *testing.T) []protoreflect.FileDescriptor {
	t.Helper()
	var files []protoreflect.FileDescriptor
	protoregistry.GlobalFiles.RangeFilesByPackage("fetchgate.v1", func(f protoreflect.FileDescriptor) bool {
		files = append(files, f)
		return true
	})
	if len(files) != 7 {
		t.Fatalf("fetchgate.v1 has %d files, want 7", len(files))
	}
	return files
}

func eachMessage(messages protoreflect.MessageDescriptors, visit func(protoreflect.MessageDescriptor)) {
	for i := range messages.Len() {
		visit(messages.Get(i))
		eachMessage(messages.Get(i).Messages(), visit)
	}
}

// TestContractNeedsNothingElse: stubs in any language compile from these files
// alone, and have the options that can never change.
func TestContractNeedsNothingElse(t *testing.T) {
	for _, f := range contractFiles(t) {
		for i := range f.Imports().Len() {
			path := f.Imports().Get(i).Path()
			if !strings.HasPrefix(path, "google/protobuf/") && !strings.HasPrefix(path, "fetchgate/v1/") {
				t.Errorf("%s imports %s", f.Path(), path)
			}
		}
		source, err := os.ReadFile(filepath.Join("..", "proto", f.Path()))
		if err != nil {
			t.Fatal(err)
		}
		for _, option := range []string{
			`option go_package = "github.com/fetchgate/fetchgate/gen/fetchgate/v1;fetchgatev1";`,
			`option java_package = "io.github.fetchgate.v1";`,
			`option java_multiple_files = true;`,
		} {
			if !strings.Contains(string(source), option) {
				t.Errorf("%s has not %s", f.Path(), option)
			}
		}
	}
}

// keywords are the words of Python and Java that no field may be called.
var keywords = strings.Fields(`False None True and as assert async await break class continue def del elif else except
finally for from global if import in is lambda nonlocal not or pass raise return try while with yield
abstract boolean byte case catch char const default do double enum extends final float goto implements instanceof int
interface long native new package private protected public short static strictfp super switch synchronized this throw
throws transient void volatile true false null`)

func TestNoFieldIsAKeyword(t *testing.T) {
	for _, f := range contractFiles(t) {
		eachMessage(f.Messages(), func(m protoreflect.MessageDescriptor) {
			for i := range m.Fields().Len() {
				if name := string(m.Fields().Get(i).Name()); slices.Contains(keywords, name) {
					t.Errorf("%s.%s is a keyword of Python or Java", m.FullName(), name)
				}
			}
		})
	}
}

// TestBodiesAreEncodedLast: the codec appends a body to the encoding of the
// message around it, which is right only while no field has a higher number.
func TestBodiesAreEncodedLast(t *testing.T) {
	var file protoreflect.FileDescriptor = fetchgatev1.File_fetchgate_v1_fetch_service_proto
	messages := []protoreflect.MessageDescriptor{(&fetchgatev1.HttpResponse{}).ProtoReflect().Descriptor()}
	for _, name := range []protoreflect.Name{"FetchResponse", "StreamFetchResponse", "Data", "BatchFetchResponse", "BatchResult", "ExchangeResponse"} {
		messages = append(messages, file.Messages().ByName(name))
	}
	for _, m := range messages {
		last := m.Fields().ByNumber(15)
		if last == nil {
			t.Errorf("%s has no field 15", m.FullName())
		}
		for i := range m.Fields().Len() {
			if n := m.Fields().Get(i).Number(); n > 15 {
				t.Errorf("%s has a field %d behind its body", m.FullName(), n)
			}
		}
	}
}

// TestOptionsTellUnsetFromZero: every scalar of the options is optional, since
// unset means the server's default.
func TestOptionsTellUnsetFromZero(t *testing.T) {
	exempt := map[protoreflect.FullName]string{
		"fetchgate.v1.ResolveOverride.host": "required", "fetchgate.v1.ResolveOverride.port": "0 is any port",
		"fetchgate.v1.ProxyField.name": "required", "fetchgate.v1.ProxyField.value": "may be empty",
		"fetchgate.v1.Digest.algorithm": "required", "fetchgate.v1.Digest.value": "required",
	}
	eachMessage(fetchgatev1.File_fetchgate_v1_options_proto.Messages(), func(m protoreflect.MessageDescriptor) {
		if m.IsMapEntry() {
			return
		}
		for i := range m.Fields().Len() {
			fd := m.Fields().Get(i)
			scalar := fd.Message() == nil && !fd.IsList() && !fd.IsMap()
			if scalar && !fd.HasPresence() && exempt[fd.FullName()] == "" {
				t.Errorf("%s is not optional", fd.FullName())
			}
		}
	})
}

// TestWordsOfFailures: the reasons, blames, stages and answers of package fetch
// are those of the contract, and mean what its comments say.
func TestWordsOfFailures(t *testing.T) {
	source, err := os.ReadFile("../proto/fetchgate/v1/failure.proto")
	if err != nil {
		t.Fatal(err)
	}
	folded := strings.Join(strings.Fields(regexp.MustCompile(`(?m)^\s*//`).ReplaceAllString(string(source), "")), " ")
	var reasons []string
	for _, e := range fetch.ReasonTable {
		reasons = append(reasons, string(e.Reason))
		if want := e.Means + " FAILURE_REASON_" + string(e.Reason) + " ="; !strings.Contains(folded, want) {
			t.Errorf("the contract's comment on %s is not %q", e.Reason, e.Means)
		}
		if e.Next == "" {
			t.Errorf("%s does not say what to do", e.Reason)
		}
	}
	sameWords(t, fetchgatev1.FailureReason(0).Descriptor(), "FAILURE_REASON_", reasons)
	sameWords(t, fetchgatev1.Blame(0).Descriptor(), "BLAME_", []string{
		string(fetch.BlameCaller), string(fetch.BlamePolicy), string(fetch.BlameFetchgate), string(fetch.BlameNetwork), string(fetch.BlameUpstream)})
	sameWords(t, fetchgatev1.RequestSent(0).Descriptor(), "REQUEST_SENT_", []string{
		string(fetch.SentNo), string(fetch.SentYes), string(fetch.SentUnknown)})
	sameWords(t, fetchgatev1.Stage(0).Descriptor(), "STAGE_", []string{
		string(fetch.StageResolve), string(fetch.StageConnect), string(fetch.StageTLS), string(fetch.StageProxy), string(fetch.StageSend),
		string(fetch.StageHead), string(fetch.StageBody), string(fetch.StageDecode), string(fetch.StageWait)})
}

// sameWords compares the values of an enum, without its prefix and its zero,
// with words.
func sameWords(t *testing.T, e protoreflect.EnumDescriptor, prefix string, words []string) {
	t.Helper()
	var values []string
	for i := 1; i < e.Values().Len(); i++ {
		values = append(values, strings.TrimPrefix(string(e.Values().Get(i).Name()), prefix))
	}
	slices.Sort(values)
	slices.Sort(words)
	if !slices.Equal(values, words) {
		t.Errorf("%s has %q, package fetch %q", e.Name(), values, words)
	}
}
