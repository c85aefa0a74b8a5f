// Package limit bounds what callers have under way at once, in fetches and in bytes
// held ([Admission]), and how often they retry ([RetryBudget]). It counts what goes
// through one server.
package limit
