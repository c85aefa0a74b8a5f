// Package fetchtest starts a real fetchgate and real, unkind upstreams for
// tests (importable by users).
//
// The upstreams listen on loopback, speak on real sockets and, with an
// [Authority], real TLS:
//
//   - [NewRecorder] speaks HTTP/1.1 and keeps every byte that it was sent;
//   - [NewScript] writes what it is told, fit for HTTP or not;
//   - [NewH2] speaks HTTP/2 as it should be spoken, [NewHostile] as it should not.
//
// Only name resolution ([DNS]) and connecting ([RecordingConnect]) are made up,
// so that a test can say what a name resolves to and prove what was not dialed.
//
// Everything belongs to the test that made it: when the test ends, its
// upstreams close and wait for their goroutines.
package fetchtest
