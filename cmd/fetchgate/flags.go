package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// optionOfFlag names, by an option's path in the contract, the flag of get that
// sets it.
var optionOfFlag = map[string]string{
	"options.timeouts.total":                           "--timeout",
	"options.timeouts.min_throughput_bytes_per_second": "--speed-limit",
	"options.retry.max_attempts":                       "--retry",
	"options.retry.backoff_base":                       "--retry-delay",
	"options.retry.backoff_max":                        "--retry-delay",
	"options.redirect.max_redirects":                   "--max-redirs",
	"options.response.decode":                          "--no-decode",
	"options.response.max_body_bytes":                  "--max-filesize",
	"options.verbatim":                                 "--verbatim",
	"options.protocol.expect_continue":                 "--expect100",
	"options.protocol.continue_timeout":                "--expect100-timeout",
	"request.raw_target":                               "--request-target",
	"request.cookies":                                  "-b",
	"request.omit_default_fields":                      "-A",
}

// inFlags says in flags of get what a hint of the contract says in options. A
// switch has no value, so what sets one goes first.
func inFlags(hint string) string {
	pairs := []string{
		"options.response.decode = false", "--no-decode",
		"Use StreamFetch, which has no such limit.", "add --stream or -o FILE",
		"set it to 1, or leave options.retry out", "leave --retry and --retry-delay out",
		"set it to 0, or leave options.redirect out", "leave --max-redirs out",
		"write the Cookie field into request.headers", "write it with -H",
		"into request.headers", "with -H",
	}
	for path, flag := range optionOfFlag {
		pairs = append(pairs, path, flag)
	}
	return strings.NewReplacer(pairs...).Replace(hint)
}

// curlAnswers say what to do instead of those flags of curl that get has not.
var curlAnswers = []struct{ flags, answer string }{
	{"-k --insecure --proxy-insecure --doh-insecure", "verification cannot be switched off by a caller; ask the operator for a TLS profile (upstream_tls.ca_files)"},
	{"--cacert --capath --ca-native --crlfile --pinnedpubkey", "roots for upstreams are the operator's: upstream_tls.ca_files; those for fetchgate itself are --ca FILE"},
	{"-E --cert-type --key-type --pass", "a client certificate for upstreams is held by the service: --credential NAME; --cert and --key are what fetchgate is shown"},
	{"--tlsv1.0 --tlsv1.1 -2 --sslv2 -3 --sslv3 --ssl-allow-beast --ciphers --tls13-ciphers", "TLS is 1.2 or newer with the suites of Go, always; leave it out"},
	{"-1 --tlsv1 --tlsv1.2 --tlsv1.3 --tls-max --ssl-reqd", "TLS 1.2 or newer is spoken anyway; leave it out"},
	{"-x --proxy --socks4 --socks4a --socks5 --socks5-hostname --preproxy --proxy1.0 --noproxy -p --proxytunnel -U --proxy-user --proxy-header", "proxies are not offered yet"},
	{"--resolve --connect-to --dns-servers --doh-url --interface --local-port --unix-socket --abstract-unix-socket --haproxy-protocol", "fetchgate resolves and dials only what policy judged: a caller cannot say where to connect"},
	{"-4 --ipv4 -6 --ipv6 --happy-eyeballs-timeout-ms", "fetchgate tries the addresses of both families; leave it out"},
	{"--basic", "-u USER:PASSWORD is Basic anyway; leave it out"},
	{"--digest --ntlm --negotiate --anyauth --aws-sigv4 --delegation -n --netrc --netrc-file --netrc-optional", "credentials of this kind are not offered yet"},
	{"--location-trusted", "credentials never leave their origin; without it redirects are followed all the same"},
	{"--post301 --post302 --post303", "redirects follow the rules of browsers; write --no-follow and send the next request yourself"},
	{"-m --max-time", "write --timeout DURATION, such as --timeout 10s"},
	{"--connect-timeout", "each stage of connecting has 5 s; to bound the whole fetch write --timeout DURATION"},
	{"--retry-max-time", "write --timeout DURATION: it bounds the whole fetch with its attempts and waits"},
	{"--retry-all-errors --retry-connrefused", "what may be tried again is, refused connections included; say how often with --retry N"},
	{"-y --speed-time", "the time is 30 s; say how slow is too slow with --speed-limit BYTES"},
	{"--limit-rate --rate", "rates are not offered yet"},
	{"-F --form --form-string --form-escape", "multipart bodies are not offered yet; for a form without files write --data-urlencode NAME=VALUE"},
	{"--data-ascii --data-binary --data-raw", "write -d: it sends every byte as it is"},
	{"-G --get", "write the data into the URL's query"},
	{"--url-query", "write it into the URL's query"},
	{"--url", "write the URL by itself"},
	{"-T --upload-file", "write -X PUT -d @FILE, for at most 3 MiB; larger uploads are not offered yet"},
	{"-O --remote-name -J --remote-header-name --output-dir --create-dirs --no-clobber", "name the file: -o FILE"},
	{"-C --continue-at -r --range", "downloads that go on are not offered yet; one range: -H 'Range: bytes=0-99'"},
	{"-z --time-cond --etag-compare", "write the condition as a field: -H 'If-Modified-Since: …' or -H 'If-None-Match: …'"},
	{"-D --dump-header", "write -i to have the heads before the body, or -v"},
	{"-w --write-out", "write --report=json, and pick from it"},
	{"--trace --trace-ascii --trace-time --trace-ids", "write -v, or --report"},
	{"-c --cookie-jar -j --junk-session-cookies", "cookies live as long as the fetch; --cookie sends some"},
	{"--compressed --tr-encoding", "codings are asked for and undone anyway; --no-decode switches that off"},
	{"--raw", "write --no-decode; HTTP framing is always undone"},
	{"-N --no-buffer", "write --stream: what comes is written at once"},
	{"--fail-with-body", "leave --fail out, and read the status with -i or -v"},
	{"--fail-early -Z --parallel --next -: --parallel-max", "one call fetches one URL; call it once for each"},
	{"-# --progress-bar --no-progress-meter", "progress is shown with -o; -s hides it"},
	{"-0 --http1.0 --http1.1 --http2 --http2-prior-knowledge --http3 --http3-only --http0.9", "the protocol is chosen with the upstream; choosing one here is not offered yet"},
	{"--path-as-is", "paths are sent as they are; leave it out"},
	{"-g --globoff", "nothing in a URL is expanded; leave it out"},
	{"-K --config -q --disable", "there is no file of flags"},
	{"--alt-svc --hsts --keepalive-time --no-keepalive --tcp-nodelay --tcp-fastopen --ignore-content-length", "connections are fetchgate's own; leave it out"},
	{"--proto --proto-redir --proto-default", "only http and https are spoken; leave it out"},
	{"-a --append -B --use-ascii -l --list-only -P --ftp-port -Q --quote -t --telnet-option --mail-from --mail-rcpt", "only http and https are spoken"},
	{"-V", "write: fetchgate version"},
	{"-M --manual", "write --help"},
}

// withAnswer says more about a flag that does not exist: what stands for it, if
// it is curl's, else which is nearest.
func withAnswer(err error) (what, next string) {
	what = err.Error()
	if rest, found := strings.CutPrefix(what, "unexpected argument "); found {
		return what, tooMany(err, rest)
	}
	rest, unknown := strings.CutPrefix(what, "unknown flag ")
	var wrong *kong.ParseError
	if !unknown || !errors.As(err, &wrong) || wrong.Context.Selected() == nil {
		return what, ""
	}
	flag, _, _ := strings.Cut(rest, ", ")
	ofCurl := map[string]string{}
	if wrong.Context.Selected().Name == "get" {
		ofCurl = curlFlags()
	}
	if answer := ofCurl[flag]; answer != "" {
		return "get has no flag " + flag, answer
	}
	if !strings.HasPrefix(flag, "--") { // every other letter is as near
		return "unknown flag " + flag, ""
	}
	near := nearest(flag, append(flagsOf(wrong.Context), keysOf(ofCurl)...))
	if near == "" || strings.Contains(what, "did you mean") {
		return what, ""
	}
	if answer := ofCurl[near]; answer != "" {
		return fmt.Sprintf("unknown flag %s, and get has no %s either", flag, near), answer
	}
	return fmt.Sprintf("unknown flag %s, did you mean %q?", flag, near), ""
}

// tooMany says what an argument that has no place was most likely meant for;
// empty where nothing is known.
func tooMany(err error, argument string) string {
	var wrong *kong.ParseError
	if !errors.As(err, &wrong) || wrong.Context.Selected() == nil {
		return ""
	}
	args := wrong.Context.Args
	form := slices.Index(args, "--report") + 1
	switch command := wrong.Context.Selected().Name; {
	case command == "serve":
		return "write --config " + argument
	case command == "get" && form > 0 && form < len(args) && (args[form] == string(reportText) || args[form] == string(reportJSON)):
		return "write --report=" + args[form]
	case command == "get", command == "explain":
		return "one URL per call; call it once for each"
	}
	return ""
}

// curlFlags are the answers by flag.
func curlFlags() map[string]string {
	answers := map[string]string{}
	for _, a := range curlAnswers {
		for flag := range strings.FieldsSeq(a.flags) {
			answers[flag] = a.answer
		}
	}
	return answers
}

func flagsOf(c *kong.Context) []string {
	var flags []string
	for _, f := range c.Flags() {
		flags = append(flags, "--"+f.Name)
	}
	return flags
}
