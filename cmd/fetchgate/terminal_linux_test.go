package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	fetchgatev1 "github.com/fetchgate/fetchgate/gen/fetchgate/v1"
)

// openTerminal returns both ends of a pseudoterminal, that of its user first.
func openTerminal(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("this machine has no pseudoterminals: ", err)
	}
	t.Cleanup(func() { user.Close() })
	var locked, number uint32
	for request, argument := range map[uintptr]*uint32{syscall.TIOCSPTLCK: &locked, syscall.TIOCGPTN: &number} {
		if _, _, failed := syscall.Syscall(syscall.SYS_IOCTL, user.Fd(), request, uintptr(unsafe.Pointer(argument))); failed != 0 {
			t.Fatal(failed)
		}
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return user, program
}

// TestGetToTerminal: a body that is not text does not reach a terminal.
func TestGetToTerminal(t *testing.T) {
	for body, code := range map[string]int{"text\n": exitOK, "PK\x03\x04\x00": exitOutput} {
		service := &canned{answer: func(context.Context) (*fetchgatev1.FetchResponse, error) { return responded(200, body), nil }}
		user, terminal := openTerminal(t)
		var stderr lockedBuffer
		got := run(t.Context(), []string{"fetchgate", "get", "--address", service.start(t), "http://example.com/"},
			streams{strings.NewReader(""), terminal, &stderr})
		result{code: got, err: stderr.String()}.wantCode(t, code)
		fmt.Fprintln(terminal, "end")
		first, err := bufio.NewReader(user).ReadString('\n')
		want := "end\r\n"
		if code == exitOK {
			want = "text\r\n"
		}
		if err != nil || first != want {
			t.Errorf("the terminal shows %q, want %q: %v", first, want, err)
		}
		if code != exitOK && !strings.Contains(stderr.String(), "next: add -o FILE") {
			t.Error(stderr.String())
		}
	}
}
