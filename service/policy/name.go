package policy

import (
	"fmt"
	"strings"

	"github.com/fetchgate/fetchgate/service/fetch"
)

// nameKind says what a host name needs beside a rule.
type nameKind uint8

const (
	// ordinary names need nothing else.
	ordinary nameKind = iota
	// exactOnly names mean something else in every network, so a wildcard, which
	// speaks of the public DNS, never stands for them.
	exactOnly
	// loopbackName is exactOnly and needs dangerous_allow_loopback.
	loopbackName
	// metadataName is exactOnly and needs dangerous_allow_metadata.
	metadataName
)

// specialNames are the names that are not ordinary. One that begins with a dot
// is a name and all names below it. A name of one label, which a search list or
// a hosts file explains, is exactOnly without being listed.
var specialNames = map[string]nameKind{
	".localhost":              loopbackName, // RFC 6761 section 6.3
	".localhost.localdomain":  loopbackName, // Red Hat's hosts file
	"localhost4":              loopbackName, // the same
	"localhost4.localdomain4": loopbackName, // the same
	"localhost6":              loopbackName, // the same
	"localhost6.localdomain6": loopbackName, // the same
	"ip6-localhost":           loopbackName, // Debian's hosts file
	"ip6-loopback":            loopbackName, // the same
	"loopback":                loopbackName, // older hosts files and /etc/networks

	".internal":    exactOnly, // reserved by ICANN for private networks; clouds name machines so
	".local":       exactOnly, // multicast DNS, RFC 6762 section 3; cluster.local of Kubernetes
	".localdomain": exactOnly, // the customary search list of a network that has none
	".svc":         exactOnly, // services of Kubernetes as its search list completes them: kubernetes.default.svc

	"metadata":                     metadataName, // Google Cloud, by search list
	"metadata.google.internal":     metadataName, // Google Cloud
	"metadata.goog":                metadataName, // Google Cloud
	"instance-data":                metadataName, // AWS EC2, by search list
	"instance-data.ec2.internal":   metadataName, // AWS EC2
	"metadata.azure.internal":      metadataName, // Azure
	"metadata.tencentyun.com":      metadataName, // Tencent Cloud
	"metadata.packet.net":          metadataName, // Equinix Metal, formerly Packet
	"metadata.platformequinix.com": metadataName, // Equinix Metal
	"api.metadata.cloud.ibm.com":   metadataName, // IBM Cloud
	"rancher-metadata":             metadataName, // Rancher
	"data-server":                  metadataName, // CloudStack, by search list
}

// kindOf returns the kind of a canonical name.
func kindOf(name string) nameKind {
	if kind, ok := specialNames[name]; ok {
		return kind
	}
	if kind, ok := specialNames["."+name]; ok {
		return kind
	}
	for at := range len(name) {
		if name[at] != '.' {
			continue
		}
		if kind, ok := specialNames[name[at:]]; ok {
			return kind
		}
	}
	if !strings.Contains(name, ".") {
		return exactOnly
	}
	return ordinary
}

// judgeName denies a special name for which r, which names it, lacks the key,
// and one that no rule names.
func (p *Policy) judgeName(r *rule, q *question) *fetch.Denied {
	var message, hint string
	switch {
	case q.kind == ordinary:
		return nil
	case r == p.beyond:
		return p.denyUnmatched(q)
	case q.kind == metadataName && !r.opened.metadata:
		message = q.origin.Host + " is the name of a cloud's metadata service, which policy denies"
		hint = fmt.Sprintf("Ask %s to set dangerous_allow_metadata in rule %q, if a metadata service is meant.", r.whom(), r.name)
	case q.kind == loopbackName && !r.opened.loopback:
		message = q.origin.Host + " is a name of the machine itself, which policy denies"
		hint = fmt.Sprintf("Ask %s to set dangerous_allow_loopback in rule %q, if the upstream runs beside fetchgate.", r.whom(), r.name)
	default:
		return nil
	}
	return &fetch.Denied{
		Reason:  fetch.ReasonDestinationDenied,
		Rule:    r.name,
		Message: message,
		Hint:    hint,
		Audit:   fmt.Sprintf("rule %q names the host without the key that it needs", r.name),
	}
}
