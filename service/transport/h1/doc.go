// Package h1 reads and writes HTTP/1.1 (RFC 9112) on one connection: requests
// exactly as they are given, responses strictly and as they came.
//
// It holds no buffer while it waits, starts no goroutine and keeps no time;
// whoever owns the connection does.
package h1
