//go:build race

package service_test

// raceEnabled tells that pools drop what is put back, at random.
const raceEnabled = true
