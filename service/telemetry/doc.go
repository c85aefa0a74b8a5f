// Package telemetry writes the one audit line, the metrics and the span of a
// fetch.
package telemetry
