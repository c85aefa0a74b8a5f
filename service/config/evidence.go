package config

import (
	"fmt"
	"net/url"
	"path/filepath"

	configv1 "github.com/fetchgate/fetchgate/gen/fetchgate/config/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// File returns where a file of the configuration lies: a relative name is below
// the directory of the configuration file. Empty stays empty.
func (l *Loaded) File(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(l.Source), name)
}

// onFullWords are the words of audit.on_full by older ones.
var onFullWords = map[string]string{"count": "drop_and_count", "fail_closed": "refuse"}

// Audit returns the settings of the audit record with their defaults filled in,
// the file's name complete and older words replaced.
func (l *Loaded) Audit() *configv1.Audit {
	set := l.Config.GetAudit()
	filled := &configv1.Audit{
		Sink: "stdout", Detail: "full", OnFull: "drop_and_count", File: l.File(set.GetFile()), OtlpEndpoint: set.GetOtlpEndpoint(),
		MaxFileBytes: new(int64(100 << 20)), KeepFiles: new(int32(5)), MaxQueueBytes: new(int64(4 << 20)),
	}
	if set == nil {
		return filled
	}
	for _, word := range []struct {
		to  *string
		set string
	}{{&filled.Sink, set.GetSink()}, {&filled.Detail, set.GetDetail()}, {&filled.OnFull, set.GetOnFull()}} {
		if word.set != "" {
			*word.to = word.set
		}
	}
	if word, isOlder := onFullWords[filled.OnFull]; isOlder {
		filled.OnFull = word
	}
	if set.MaxFileBytes != nil {
		filled.MaxFileBytes = set.MaxFileBytes
	}
	if set.KeepFiles != nil {
		filled.KeepFiles = set.KeepFiles
	}
	if set.MaxQueueBytes != nil {
		filled.MaxQueueBytes = set.MaxQueueBytes
	}
	return filled
}

// checkEvidence refuses settings of the audit record and of metrics that say
// nothing together.
func (l *Loaded) checkEvidence(refuse func(path, message string)) {
	audit := l.Config.GetAudit()
	for _, c := range []struct{ sink, key, value, which string }{
		{"file", "file", audit.GetFile(), "which file"}, {"otlp", "otlp_endpoint", audit.GetOtlpEndpoint(), "which collector"},
	} {
		switch is := audit.GetSink() == c.sink; {
		case is && c.value == "":
			refuse("audit.sink", fmt.Sprintf("is %q and audit.%s is missing; say %s", c.sink, c.key, c.which))
		case !is && c.value != "":
			refuse("audit."+c.key, fmt.Sprintf("is not used with this audit.sink; write sink: %s, or leave it out", c.sink))
		}
	}
	if to, err := url.Parse(audit.GetOtlpEndpoint()); err != nil || audit.GetOtlpEndpoint() != "" && to.Hostname() == "" {
		refuse("audit.otlp_endpoint", fmt.Sprintf("%q has no host that can be read; write http://HOST:PORT or https://HOST:PORT", audit.GetOtlpEndpoint()))
	}
	for i, origin := range l.Config.GetTelemetry().GetOrigins() {
		d, err := fetch.ParseURL(origin + "/")
		if err != nil || d.Origin.String() != origin {
			refuse(fmt.Sprintf("telemetry.origins[%d]", i), fmt.Sprintf("%q is not an origin; write it as https://api.example.com, with a port only if it is not the scheme's own", origin))
		}
	}
}
