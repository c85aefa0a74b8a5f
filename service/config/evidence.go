package config

import (
	"fmt"
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

// Audit returns the settings of the audit record with their defaults filled in
// and the file's name complete.
func (l *Loaded) Audit() *configv1.Audit {
	set := l.Config.GetAudit()
	filled := &configv1.Audit{
		Sink: "stdout", Detail: "full", OnFull: "count", File: l.File(set.GetFile()),
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
	switch isFile := audit.GetSink() == "file"; {
	case isFile && audit.GetFile() == "":
		refuse("audit.sink", `is "file" and audit.file is missing; say which file`)
	case !isFile && audit.GetFile() != "":
		refuse("audit.file", `is not used with this audit.sink; write sink: file, or leave the file out`)
	}
	for i, origin := range l.Config.GetTelemetry().GetOrigins() {
		d, err := fetch.ParseURL(origin + "/")
		if err != nil || d.Origin.String() != origin {
			refuse(fmt.Sprintf("telemetry.origins[%d]", i), fmt.Sprintf("%q is not an origin; write it as https://api.example.com, with a port only if it is not the scheme's own", origin))
		}
	}
}
