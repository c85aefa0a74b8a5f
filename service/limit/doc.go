// Package limit holds rate, concurrency, budgets and breakers; local or
// fleet-wide.
package limit
