//go:build !linux && !darwin

package listener

import "errors"

// processAt has nobody to ask.
func processAt(int) (Process, error) {
	return Process{}, errors.New("fetchgate does not know how to ask this system who has connected")
}
