package fetch

// Reason is a closed class of failure, spelled as in the contract without its
// prefix. ReasonTable says what each means.
type Reason string

// The reasons, in the order of the contract.
const (
	// Request.
	ReasonInvalidURL         Reason = "INVALID_URL"
	ReasonInvalidRedirectURL Reason = "INVALID_REDIRECT_URL"
	ReasonUnsupportedScheme  Reason = "UNSUPPORTED_SCHEME"
	ReasonBodyNotRewindable  Reason = "BODY_NOT_REWINDABLE"

	// Policy.
	ReasonRedirectDenied         Reason = "REDIRECT_DENIED"
	ReasonAddressDenied          Reason = "ADDRESS_DENIED"
	ReasonPathAmbiguous          Reason = "PATH_AMBIGUOUS"
	ReasonCredentialOutOfBinding Reason = "CREDENTIAL_OUT_OF_BINDING"
	ReasonWithdrawn              Reason = "WITHDRAWN"

	// Resolve.
	ReasonNameNotFound   Reason = "NAME_NOT_FOUND"
	ReasonResolverFailed Reason = "RESOLVER_FAILED"
	ReasonResolveTimeout Reason = "RESOLVE_TIMEOUT"

	// Connect.
	ReasonConnectRefused     Reason = "CONNECT_REFUSED"
	ReasonConnectUnreachable Reason = "CONNECT_UNREACHABLE"
	ReasonConnectTimeout     Reason = "CONNECT_TIMEOUT"
	ReasonPoolTimeout        Reason = "POOL_TIMEOUT"
	ReasonTooManyDials       Reason = "TOO_MANY_DIALS"

	// Proxy.
	ReasonProxyConnect Reason = "PROXY_CONNECT"
	ReasonProxyStatus  Reason = "PROXY_STATUS"
	ReasonProxyAuth    Reason = "PROXY_AUTH"
	ReasonSOCKSFailed  Reason = "SOCKS_FAILED"

	// TLS.
	ReasonTLSVerify            Reason = "TLS_VERIFY"
	ReasonTLSNameMismatch      Reason = "TLS_NAME_MISMATCH"
	ReasonTLSExpired           Reason = "TLS_EXPIRED"
	ReasonTLSHandshake         Reason = "TLS_HANDSHAKE"
	ReasonTLSTimeout           Reason = "TLS_TIMEOUT"
	ReasonTLSPinMismatch       Reason = "TLS_PIN_MISMATCH"
	ReasonTLSClientCertificate Reason = "TLS_CLIENT_CERTIFICATE"

	// Send.
	ReasonWriteTimeout         Reason = "WRITE_TIMEOUT"
	ReasonWriteFailed          Reason = "WRITE_FAILED"
	ReasonUploadAborted        Reason = "UPLOAD_ABORTED"
	ReasonUploadLengthMismatch Reason = "UPLOAD_LENGTH_MISMATCH"

	// Head.
	ReasonHeadTimeout       Reason = "HEAD_TIMEOUT"
	ReasonDisconnected      Reason = "DISCONNECTED"
	ReasonConnectionReset   Reason = "CONNECTION_RESET"
	ReasonMalformedHead     Reason = "MALFORMED_HEAD"
	ReasonConflictingLength Reason = "CONFLICTING_LENGTH"
	ReasonHeadTooLarge      Reason = "HEAD_TOO_LARGE"
	ReasonTooManyInterim    Reason = "TOO_MANY_INTERIM"
	ReasonProtocolError     Reason = "PROTOCOL_ERROR"

	// Body.
	ReasonBodyTimeout      Reason = "BODY_TIMEOUT"
	ReasonIncompleteBody   Reason = "INCOMPLETE_BODY"
	ReasonInvalidChunk     Reason = "INVALID_CHUNK"
	ReasonBodyTooLarge     Reason = "BODY_TOO_LARGE"
	ReasonResponseTooLarge Reason = "RESPONSE_TOO_LARGE"
	ReasonBodyTooSlow      Reason = "BODY_TOO_SLOW"
	ReasonStreamReset      Reason = "STREAM_RESET"

	// Decode.
	ReasonDecodeFailed    Reason = "DECODE_FAILED"
	ReasonDecodedTooLarge Reason = "DECODED_TOO_LARGE"
	ReasonTooManyCodings  Reason = "TOO_MANY_CODINGS"
	ReasonCharsetUnknown  Reason = "CHARSET_UNKNOWN"

	// Whole.
	ReasonTotalTimeout     Reason = "TOTAL_TIMEOUT"
	ReasonAttemptTimeout   Reason = "ATTEMPT_TIMEOUT"
	ReasonTooManyRedirects Reason = "TOO_MANY_REDIRECTS"
	ReasonRedirectLoop     Reason = "REDIRECT_LOOP"
	ReasonRetriesExhausted Reason = "RETRIES_EXHAUSTED"
	ReasonEntityChanged    Reason = "ENTITY_CHANGED"
	ReasonDigestMismatch   Reason = "DIGEST_MISMATCH"
	ReasonRangeRefused     Reason = "RANGE_REFUSED"

	// Credential.
	ReasonCredentialUnavailable Reason = "CREDENTIAL_UNAVAILABLE"
	ReasonChallengeUnsupported  Reason = "CHALLENGE_UNSUPPORTED"

	// Limits.
	ReasonBreakerOpen   Reason = "BREAKER_OPEN"
	ReasonUpstreamQuota Reason = "UPSTREAM_QUOTA"

	// WebSocket.
	ReasonHandshakeStatus  Reason = "HANDSHAKE_STATUS"
	ReasonHandshakeInvalid Reason = "HANDSHAKE_INVALID"
	ReasonWSProtocolError  Reason = "WS_PROTOCOL_ERROR"

	// fetchgate.
	ReasonInternalFault Reason = "INTERNAL_FAULT"
	ReasonDraining      Reason = "DRAINING"
)

// ReasonEntry says what a reason means and what to do about it. The contract's
// comments, docs/errors.md and the command line say the same, held by tests.
type ReasonEntry struct {
	Reason Reason
	Blame  Blame
	// Stage is where it happens; StageUnspecified means in more than one.
	Stage Stage
	// Retryable tells that the same request can succeed a little later, if it
	// may be sent twice at all.
	Retryable bool
	Means     string
	Next      string
}

// ReasonTable holds every reason once, in the order of the contract.
var ReasonTable = []ReasonEntry{
	{ReasonInvalidURL, BlameCaller, StageUnspecified, false,
		"The URL is not an absolute http or https URL that has only one reading.",
		"Send a URL that says exactly where it goes; the message names the part that is wrong."},
	{ReasonInvalidRedirectURL, BlameUpstream, StageHead, false,
		"The upstream redirects to a Location that is not a usable URL.",
		"Ask the upstream's owner to mend it, or do without redirects and read the Location yourself."},
	{ReasonUnsupportedScheme, BlameCaller, StageUnspecified, false,
		"The URL's scheme is not http or https.",
		"Use http or https."},
	{ReasonBodyNotRewindable, BlameCaller, StageSend, false,
		"A redirect, retry or challenge needs the request body again and it cannot be sent twice.",
		"Send the body whole, or say that it is replayable."},
	{ReasonRedirectDenied, BlamePolicy, StageUnspecified, false,
		"Policy denies the place that a redirect leads to.",
		"Ask the owner of the policy, or do without redirects."},
	{ReasonAddressDenied, BlamePolicy, StageResolve, false,
		"The host resolves to an address that policy denies.",
		"Check the host's DNS records; for an internal service ask the owner of the policy for allow_addresses."},
	{ReasonPathAmbiguous, BlamePolicy, StageUnspecified, false,
		"Servers read the path in more than one way, and policy decides about each in another.",
		"Send a path without percent-encoded letters, slashes and dots, dot segments, doubled slashes, '\\' and ';'."},
	{ReasonCredentialOutOfBinding, BlamePolicy, StageUnspecified, false,
		"The named credential is not bound to this origin, method or path.",
		"Ask the owner of the policy which credential serves this origin, or to widen credentials[].origins, methods, paths or callers."},
	{ReasonWithdrawn, BlamePolicy, StageUnspecified, false,
		"A new configuration denies what was allowed when the fetch began.",
		"Ask the owner of the policy."},
	{ReasonNameNotFound, BlameNetwork, StageResolve, false,
		"The host name has no address.",
		"Check the spelling of the host and its DNS records."},
	{ReasonResolverFailed, BlameNetwork, StageResolve, true,
		"The resolver gave no usable answer.",
		"Try again; if it goes on, look at the resolver that fetchgate uses."},
	{ReasonResolveTimeout, BlameNetwork, StageResolve, true,
		"The resolver did not answer within the dns timeout.",
		"Try again; if it goes on, look at the resolver that fetchgate uses."},
	{ReasonConnectRefused, BlameNetwork, StageConnect, true,
		"The upstream's address refuses connections to this port.",
		"Check the port, and that the upstream is running."},
	{ReasonConnectUnreachable, BlameNetwork, StageConnect, true,
		"There is no route to the upstream's address.",
		"Check the network between fetchgate and the upstream."},
	{ReasonConnectTimeout, BlameNetwork, StageConnect, true,
		"The upstream did not accept a connection within the connect timeout.",
		"Check firewalls on the way, and that the upstream is running."},
	{ReasonPoolTimeout, BlameFetchgate, StageWait, true,
		"No connection became free within the pool timeout.",
		"Try again later, or ask for a higher connection limit."},
	{ReasonTooManyDials, BlameUpstream, StageConnect, true,
		"The attempt opened as many connections as it may, and the upstream served the request on none.",
		"Ask the upstream's owner why it closes connections unserved."},
	{ReasonProxyConnect, BlameNetwork, StageProxy, true,
		"The proxy could not be reached.",
		"Check the proxy profile and that the proxy is running."},
	{ReasonProxyStatus, BlameUpstream, StageProxy, false,
		"The proxy answered the CONNECT with a status that is not 2xx.",
		"Read the status in the detail and ask the proxy's owner."},
	{ReasonProxyAuth, BlameUpstream, StageProxy, false,
		"The proxy asks for credentials or refuses those it got.",
		"Ask the operator to check the proxy profile's credential."},
	{ReasonSOCKSFailed, BlameUpstream, StageProxy, false,
		"The SOCKS proxy refused or failed the connection.",
		"Read the SOCKS reply in the detail and ask the proxy's owner."},
	{ReasonTLSVerify, BlameUpstream, StageTLS, false,
		"The upstream's certificate chain does not lead to a trusted root.",
		"Have the upstream send its whole chain; for a private authority ask the operator to add its CA file to upstream_tls.ca_files, or to the ca_files of the rule's tls_profile if that has some."},
	{ReasonTLSNameMismatch, BlameUpstream, StageTLS, false,
		"The upstream's certificate is for other names than the host.",
		"Use a host that the certificate names, or have the certificate reissued."},
	{ReasonTLSExpired, BlameUpstream, StageTLS, false,
		"A certificate of the upstream's chain has expired or is not valid yet.",
		"Ask the upstream's owner to renew it; check fetchgate's clock."},
	{ReasonTLSHandshake, BlameUpstream, StageTLS, false,
		"The TLS handshake failed: no common version or suite, a protocol error, or no TLS at all on this port.",
		"Check the scheme and port, and that the upstream speaks TLS 1.2 or newer."},
	{ReasonTLSTimeout, BlameUpstream, StageTLS, true,
		"The TLS handshake did not end within the tls timeout.",
		"Try again; if it goes on, look at the upstream."},
	{ReasonTLSPinMismatch, BlameUpstream, StageTLS, false,
		"The upstream's key is none of those pinned.",
		"Find out whether the upstream changed its key; then renew the pins."},
	{ReasonTLSClientCertificate, BlameCaller, StageTLS, false,
		"The upstream asks for a client certificate and got none that it accepts.",
		"Give a client certificate credential that the upstream trusts."},
	{ReasonWriteTimeout, BlameUpstream, StageSend, false,
		"The upstream did not take bytes of the request within the write timeout.",
		"Look at the upstream; raise the timeout for slow uploads."},
	{ReasonWriteFailed, BlameNetwork, StageSend, false,
		"The connection broke while the request was sent.",
		"Try again if the request may be sent twice."},
	{ReasonUploadAborted, BlameCaller, StageSend, false,
		"The caller ended its upload before its end.",
		"Send the end of the upload before closing the stream."},
	{ReasonUploadLengthMismatch, BlameCaller, StageSend, false,
		"The upload is shorter or longer than the length that was announced.",
		"Announce the length that is sent, or none."},
	{ReasonHeadTimeout, BlameUpstream, StageHead, true,
		"The upstream sent no response head within the response_header timeout.",
		"Look at the upstream; raise the timeout if it is known to be slow."},
	{ReasonDisconnected, BlameUpstream, StageHead, true,
		"The upstream closed the connection without sending a byte of a response.",
		"Try again if the request may be sent twice."},
	{ReasonConnectionReset, BlameNetwork, StageHead, true,
		"The connection broke before the response head was whole.",
		"Try again if the request may be sent twice."},
	{ReasonMalformedHead, BlameUpstream, StageHead, false,
		"The response head breaks the rules of HTTP.",
		"Ask the upstream's owner to mend it; the message names the rule."},
	{ReasonConflictingLength, BlameUpstream, StageHead, false,
		"The response says its length in two ways that differ.",
		"Ask the upstream's owner to mend it: such answers can be read in two ways."},
	{ReasonHeadTooLarge, BlameUpstream, StageHead, false,
		"The response head has more bytes or fields than allowed.",
		"Ask the upstream for fewer or smaller fields, or the operator for a higher limit."},
	{ReasonTooManyInterim, BlameUpstream, StageHead, false,
		"The upstream sent too many interim (1xx) responses.",
		"Ask the upstream's owner why."},
	{ReasonProtocolError, BlameUpstream, StageHead, false,
		"The upstream broke the rules of HTTP/2.",
		"Ask the upstream's owner to mend it, or prefer HTTP/1.1 for this upstream."},
	{ReasonBodyTimeout, BlameUpstream, StageBody, false,
		"The upstream sent nothing of the body for as long as the idle_read timeout.",
		"Look at the upstream; raise the timeout for bodies that pause."},
	{ReasonIncompleteBody, BlameUpstream, StageBody, false,
		"The connection ended before the body did.",
		"Try again if the request may be sent twice; what arrived is only a prefix."},
	{ReasonInvalidChunk, BlameUpstream, StageBody, false,
		"The chunked framing of the body is broken.",
		"Ask the upstream's owner to mend it; what arrived is only a prefix."},
	{ReasonBodyTooLarge, BlameCaller, StageBody, false,
		"The body is larger than the request allows.",
		"Raise options.response.max_body_bytes."},
	{ReasonResponseTooLarge, BlameCaller, StageBody, false,
		"The answer does not fit into one message.",
		"Use StreamFetch, which has no such limit."},
	{ReasonBodyTooSlow, BlameUpstream, StageBody, false,
		"The body came slower than the minimum throughput.",
		"Look at the upstream; lower options.timeouts.min_throughput_bytes_per_second for slow upstreams."},
	{ReasonStreamReset, BlameUpstream, StageBody, false,
		"The upstream reset the HTTP/2 stream before the body's end.",
		"Try again if the request may be sent twice; what arrived is only a prefix."},
	{ReasonDecodeFailed, BlameUpstream, StageDecode, false,
		"The body is not what its Content-Encoding says.",
		"Ask for the body as it is: options.response.decode = false."},
	{ReasonDecodedTooLarge, BlameUpstream, StageDecode, false,
		"The body grows too much when it is decoded.",
		"Ask for the body as it is: options.response.decode = false."},
	{ReasonTooManyCodings, BlameUpstream, StageDecode, false,
		"The body has more stacked content codings than allowed.",
		"Ask for the body as it is: options.response.decode = false."},
	{ReasonCharsetUnknown, BlameUpstream, StageDecode, false,
		"The body's charset is not known, so it cannot be given as text.",
		"Ask for the body instead of the text."},
	{ReasonTotalTimeout, BlameCaller, StageUnspecified, false,
		"The fetch did not end within its total timeout or the caller's deadline.",
		"Give it more time, or find in the report which stage took it."},
	{ReasonAttemptTimeout, BlameCaller, StageUnspecified, true,
		"An attempt did not end within the attempt timeout.",
		"Give attempts more time, or find in the report which stage took it."},
	{ReasonTooManyRedirects, BlameUpstream, StageHead, false,
		"There were more redirects than allowed.",
		"Raise options.redirect.max_redirects, or ask for the final URL."},
	{ReasonRedirectLoop, BlameUpstream, StageHead, false,
		"A redirect leads back to where the fetch has been.",
		"Ask the upstream's owner; some need a cookie to get out of it."},
	{ReasonRetriesExhausted, BlameUpstream, StageUnspecified, false,
		"The last attempt allowed has failed too.",
		"Read the failures of the attempts in the report."},
	{ReasonEntityChanged, BlameUpstream, StageHead, false,
		"The file changed at the upstream while it was downloaded.",
		"Start the download anew."},
	{ReasonDigestMismatch, BlameUpstream, StageBody, false,
		"The body's digest is not the one expected.",
		"Do not use the body; check the source and the digest."},
	{ReasonRangeRefused, BlameUpstream, StageHead, false,
		"The upstream did not give the range that was asked for.",
		"Start the download anew from its first byte."},
	{ReasonCredentialUnavailable, BlameFetchgate, StageUnspecified, true,
		"The credential cannot be had at the moment.",
		"Try again; ask the operator if it goes on."},
	{ReasonChallengeUnsupported, BlameUpstream, StageHead, false,
		"The upstream asks for a proof that the credential cannot give.",
		"Use a credential of the kind that the upstream names in WWW-Authenticate."},
	{ReasonBreakerOpen, BlameFetchgate, StageWait, true,
		"The upstream failed so often that fetchgate stopped asking for a while.",
		"Wait; retry_after says how long."},
	{ReasonUpstreamQuota, BlameFetchgate, StageWait, true,
		"The quota for this upstream is used up.",
		"Wait; retry_after says how long."},
	{ReasonHandshakeStatus, BlameUpstream, StageHead, false,
		"The upstream answered the WebSocket handshake with another status than 101.",
		"Read the response: it says why."},
	{ReasonHandshakeInvalid, BlameUpstream, StageHead, false,
		"The upstream's WebSocket handshake is not valid.",
		"Ask the upstream's owner to mend it."},
	{ReasonWSProtocolError, BlameUpstream, StageBody, false,
		"The upstream broke the rules of the WebSocket protocol.",
		"Ask the upstream's owner to mend it."},
	{ReasonInternalFault, BlameFetchgate, StageUnspecified, false,
		"fetchgate has a bug.",
		"Report it, with the report of the fetch."},
	{ReasonDraining, BlameFetchgate, StageUnspecified, true,
		"fetchgate was stopped before the fetch ended.",
		"Try again at another replica, if the request may be sent twice."},
}

var reasonIndex = func() map[Reason]*ReasonEntry {
	m := make(map[Reason]*ReasonEntry, len(ReasonTable))
	for i := range ReasonTable {
		m[ReasonTable[i].Reason] = &ReasonTable[i]
	}
	return m
}()

// Entry returns the row of r in ReasonTable; for a reason that is not in it,
// the row of ReasonInternalFault.
func (r Reason) Entry() *ReasonEntry {
	if e, ok := reasonIndex[r]; ok {
		return e
	}
	return reasonIndex[ReasonInternalFault]
}
