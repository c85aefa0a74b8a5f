// Package engine carries out a plan: attempts, hops, deadlines, budgets.
package engine
