package listener

import "golang.org/x/sys/unix"

// processAt asks who connected to the socket fd (unix(4), LOCAL_PEERCRED).
func processAt(fd int) (Process, error) {
	said, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return Process{}, err
	}
	return Process{UID: said.Uid}, nil
}
