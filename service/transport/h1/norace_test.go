//go:build !race

package h1_test

// racing tells that the race detector runs, which makes pools forget.
const racing = false
