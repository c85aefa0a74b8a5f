//go:build race

package telemetry_test

// raceEnabled tells that pools drop what is put back, at random.
const raceEnabled = true
