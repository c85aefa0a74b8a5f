package listener

import "golang.org/x/sys/unix"

// processAt asks who connected to the socket fd (unix(7), SO_PEERCRED).
func processAt(fd int) (Process, error) {
	said, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Process{}, err
	}
	return Process{UID: said.Uid}, nil
}
