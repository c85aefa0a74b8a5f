// Package console serves the operator's web page and the HTTP/JSON door, over an
// in-memory gRPC connection, never around the interceptors.
package console
