package main

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
	"github.com/fetchgate/fetchgate/service/fetch"
)

// maxMessage bounds text of a server or an upstream on the terminal, in bytes.
const maxMessage = 1024

// reasonRightMissing is the reason of an RPC that its caller may not call: policy
// was not asked.
const reasonRightMissing = "RIGHT_MISSING"

// problem says what an RPC error means for its caller. ctx is that of the RPC.
func (c *connection) problem(ctx context.Context, err error, name program) *problem {
	s := status.Convert(err)
	reason, rule := errorInfo(s)
	message := fetch.Escape([]byte(s.Message()), maxMessage)
	switch {
	case ctx.Err() == context.Canceled:
		return &problem{code: exitInterrupted, what: "interrupted"}
	case s.Code() == codes.Unavailable && reason == "", s.Code() == codes.DeadlineExceeded && !c.greeted():
		return c.unreachable(ctx, message, name)
	case s.Code() == codes.PermissionDenied && reason == reasonRightMissing:
		why, hint := cutHint(message)
		return &problem{exitRPC, "you lack a right: " + reason, why, cmp.Or(hint, "ask the service's operator to add it to callers[].rights")}
	case s.Code() == codes.PermissionDenied:
		what := "denied by policy: " + reason
		if rule != "" {
			what += ", rule " + rule
		}
		why, hint := cutHint(strings.TrimPrefix(message, "denied: "))
		return &problem{exitDenied, what, inFlags(why), cmp.Or(inFlags(withoutMore(hint)), "ask the owner of the policy")}
	}
	what := "the request was not carried out: " + s.Code().String()
	if reason != "" {
		what += ", " + reason
	}
	return &problem{exitRPC, what, message, nextOf(s)}
}

// cutHint tells what policy says of a denial from what to do about it: policy
// puts that into further sentences, or behind a semicolon.
func cutHint(message string) (why, hint string) {
	if why, hint, found := strings.Cut(message, ". "); found {
		return why, hint
	}
	why, hint, _ = strings.Cut(message, "; ")
	return why, hint
}

// errorInfo returns the reason and the rule of an error of fetchgate; empty for
// an error that gRPC made.
func errorInfo(s *status.Status) (reason, rule string) {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "fetchgate" {
			return fetch.Escape([]byte(info.GetReason()), maxMessage), fetch.Escape([]byte(info.GetMetadata()["rule"]), maxMessage)
		}
	}
	return "", ""
}

// nextOf is what the contract tells a caller to do about an RPC error.
func nextOf(s *status.Status) string {
	for _, detail := range s.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			return fmt.Sprintf("wait %s and try again", formatDuration(retry.GetRetryDelay().AsDuration()))
		}
	}
	switch s.Code() {
	case codes.InvalidArgument:
		return "mend the part of the request that is named above"
	case codes.Unauthenticated:
		return "ask the service's operator how callers prove who they are: --token-file shows a token, --cert a certificate"
	case codes.ResourceExhausted:
		return "wait a little and try again"
	case codes.Unavailable:
		return "try again, or ask another replica with --address"
	case codes.DeadlineExceeded:
		return "give it more time with --timeout"
	case codes.Unimplemented:
		return "ask a service that offers it: this one may be older"
	}
	return "report it as a bug of fetchgate, with what was asked"
}

// failed says what a failure means for the caller.
func failed(f *fetchgatev1.Failure) *problem {
	word := enumName(f.GetReason().String(), "FAILURE_REASON_")
	p := &problem{
		code: exitFailed,
		what: fmt.Sprintf("no usable response: %s (blame %s, stage %s, request sent: %s)", word,
			enumWord(f.GetBlame().String(), "BLAME_"), enumWord(f.GetStage().String(), "STAGE_"),
			enumWord(f.GetRequestSent().String(), "REQUEST_SENT_")),
		why:  fetch.Escape([]byte(f.GetMessage()), maxMessage),
		next: "see what was done with --report",
	}
	if f.GetBlame() == fetchgatev1.Blame_BLAME_POLICY {
		p.code, p.what = exitDenied, "denied by policy on the way: "+word
		if rule := f.GetDenial().GetRule(); rule != "" {
			p.what += ", rule " + escaped(rule)
		}
	}
	reason := fetch.Reason(word)
	if entry := reason.Entry(); entry.Reason == reason { // else it is newer than this command
		p.next = inFlags(entry.Next)
	}
	if hint := withoutMore(f.GetDenial().GetHint()); hint != "" && f.GetReason() != fetchgatev1.FailureReason_FAILURE_REASON_WITHDRAWN {
		p.next = inFlags(escaped(hint)) // it names the rule that is near, and who can change it
	}
	return p
}

// failedAt says what a failure means for who asked for that URL.
func failedAt(rawURL string, f *fetchgatev1.Failure) *problem {
	p := failed(f)
	switch f.GetReason() {
	case fetchgatev1.FailureReason_FAILURE_REASON_DISCONNECTED, fetchgatev1.FailureReason_FAILURE_REASON_MALFORMED_HEAD:
		// This is what an upstream that expects TLS makes of a request without it.
		if u, err := url.Parse(rawURL); err == nil && u.Scheme == "http" && u.Port() != "" && u.Port() != "80" {
			p.next = strings.TrimSuffix(p.next, ".") + "; or, if the upstream speaks TLS there, write https://"
		}
	}
	return p
}

// enumName is a value of the contract without the prefix of its enum.
func enumName(name, prefix string) string { return strings.TrimPrefix(name, prefix) }

// enumWord is a value of the contract as people say it.
func enumWord(name, prefix string) string {
	word := enumName(name, prefix)
	if word == "UNSPECIFIED" {
		return "not known"
	}
	return strings.ToLower(strings.ReplaceAll(word, "_", " "))
}
