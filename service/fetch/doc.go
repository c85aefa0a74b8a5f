// Package fetch names the things every other package talks about: Caller,
// Destination, Plan, Head, Hop, Attempt, Report, Failure, Limits, Sink, Source.
//
// It decides nothing and dials nothing. A type is here when two packages that
// must not import each other need the same word for it.
package fetch
